"""Pictures and label maps as arrays, and label values in the project's own numbering."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.errors import Unreachable, UserError
from common.images.palette import Colour
from common.labels import VOID


def read_colours(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB `[H, W, 3]`.

    Raises:
        UserError: It is missing or damaged.
    """
    return _read(path, "RGB")


def read_values(path: Path) -> NDArray[np.uint8]:
    """The values `[H, W]` of a picture with one channel; of one with a palette, the indices.

    Raises:
        UserError: It is missing or damaged, has several channels, or values above 255.
    """
    values = _read(path, None)
    if values.ndim != 2:
        raise UserError(f"{path} has several channels: label maps have one value per pixel")
    if values.dtype != np.uint8:  # of one bit, or of 16 or 32 of which few are used
        if values.size and (values.min() < 0 or values.max() > 255):
            raise UserError(f"{path} has values from {values.min()} to {values.max()}: labels are 0–255")
        values = values.astype(np.uint8)
    return values


def _read(path: Path, mode: str | None) -> NDArray[Any]:
    """A picture as an array, converted to a mode if one is named.

    Raises:
        Unreachable: It is missing, or the disk cannot read it.
        UserError: It is damaged.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert(mode) if mode else picture)
    except (FileNotFoundError, NotADirectoryError):
        raise Unreachable(f"{path} is missing") from None
    except (
        UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:  # not the picture's fault
            raise Unreachable(f"{path} cannot be read: {os.strerror(error.errno)}") from None
        raise UserError(f"{path} cannot be read as a picture: {error}") from None


def from_values(
    values: NDArray[np.uint8], classes: Sequence[int], void: Iterable[int], path: Path
) -> NDArray[np.uint8]:
    """Labels of the values in a file.

    Args:
        values: `[H, W]`.
        classes: The value of every class.
        void: The values of void; 255 is always one, unless it is a class.
        path: The file, for the message.

    Raises:
        UserError: There are other values.
    """
    void = sorted({*void, VOID} - {*classes})
    table = np.full(256, VOID, np.uint8)
    table[list(classes)] = np.arange(len(classes))
    legal = np.zeros(256, bool)
    legal[[*classes, *void]] = True
    if not np.take(legal, values).all():
        others = sorted({*np.unique(values).tolist()} - {*classes, *void})
        ranges = _ranges(classes)
        either = f"{ranges} and {' or '.join(map(str, void))} for void" if void else ranges
        raise UserError(f"{path} has the labels {others}: only {either} are legal")
    return np.take(table, values)


def _ranges(values: Sequence[int]) -> str:
    """Numbers as messages name them, such as 0–10, or 0–3, 7."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1][1:] = [value]
        else:
            parts.append([value])
    return ", ".join("–".join(map(str, part)) for part in parts)


class ColourCode:
    """Label maps drawn in colours, where several colours may be one class."""

    def __init__(self, classes: Mapping[Colour, int], refuse: bool) -> None:
        """
        Args:
            classes: The label of every colour, 255 for void.
            refuse: Whether other colours are an error; if not, they are void.
        """
        self.refuse = refuse
        self.colours = np.array(sorted(_packed(np.array(list(classes)))), np.int32)
        labels = {int(_packed(np.array(colour))): label for colour, label in classes.items()}
        self.labels = np.array([labels[colour] for colour in self.colours.tolist()], np.uint8)

    def read(self, path: Path, remedy: str) -> NDArray[np.uint8]:
        """The labels `[H, W]` that a picture shows.

        Args:
            path: The picture.
            remedy: What to do about unknown colours, for the message.

        Raises:
            UserError: It is missing or damaged, or shows unknown colours, which are refused.
        """
        packed = _packed(read_colours(path))
        places = np.searchsorted(self.colours, packed).clip(max=len(self.colours) - 1)
        unknown = self.colours[places] != packed
        if self.refuse and unknown.any():
            raise UserError(f"{path} has {_named(packed[unknown])}, which are no class: {remedy}")
        return np.where(unknown, np.uint8(VOID), self.labels[places])


def _packed(colours: NDArray[np.integer]) -> NDArray[np.int32]:
    """Colours `[…, 3]` as integers `[…]`."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _named(packed: NDArray[np.int32]) -> str:
    """The most frequent colours and how many pixels show them."""
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    first = ", ".join(
        f"({values[i] >> 16}, {values[i] >> 8 & 255}, {values[i] & 255}) ({counts[i]} pixels)"
        for i in order[:3]
    )
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"the colours {first}{more}"
