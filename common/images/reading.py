"""Pictures and label maps as arrays, and label values in the project's own numbering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.images.decoding import decode
from common.images.palette import Colour
from common.labels import VOID


def read_colours(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB `[H, W, 3]`, turned as its EXIF data say.

    Raises:
        UserError: It is missing, damaged, or can be read in several ways (`common.images.decoding`).
    """
    return read_turned(path)[0]


def read_turned(path: Path) -> tuple[NDArray[np.uint8], int]:
    """A picture as RGB `[H, W, 3]`, turned as its EXIF data say, and the EXIF orientation that said so.

    Raises:
        UserError: It is missing, damaged, or can be read in several ways (`common.images.decoding`).
    """
    picture = decode(path, "RGB")
    return picture.pixels.astype(np.uint8, copy=False), picture.orientation


def read_values(path: Path) -> NDArray[np.uint8]:
    """The values `[H, W]` of a picture with one channel; of one with a palette, the indices.

    Raises:
        UserError: It is missing or damaged, has several channels, or values that are not 0, 1, …, 255.
    """
    values, mode, _ = decode(path, labels=True)
    if values.ndim != 2:
        raise UserError(
            f"{path} has several channels (mode {mode}): label maps have one value per pixel, unless they "
            "are read by colour"
        )
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype == np.bool_:  # of one bit
        return values.astype(np.uint8)
    whole = np.isfinite(values).all() and (values == np.floor(values)).all()
    if not whole or values.min() < 0 or values.max() > 255:
        raise UserError(f"{path} has values from {values.min()} to {values.max()}: labels are 0–255, whole")
    return values.astype(np.uint8)


def from_values(
    values: NDArray[np.uint8], classes: Sequence[int], void: Iterable[int], path: Path
) -> NDArray[np.uint8]:
    """Labels of the values in a file.

    Args:
        values: `[H, W]`.
        classes: The value of every class.
        void: The values of void.
        path: The file, for the message.

    Raises:
        UserError: There are other values.
    """
    void = sorted({*void} - {*classes})
    table = np.full(256, VOID, np.uint8)
    table[list(classes)] = np.arange(len(classes))
    content = values.tobytes()  # translating bytes is several times as fast as indexing
    others = sorted({*content.translate(None, bytes([*classes, *void]))})
    if others:
        ranges = _ranges(classes)
        either = f"{ranges} and {' or '.join(map(str, void))} for void" if void else ranges
        raise UserError(f"{path} has the labels {others}: only {either} are legal")
    return np.frombuffer(bytearray(content.translate(table.tobytes())), np.uint8).reshape(values.shape)


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
        packed = _packed(decode(path, "RGB", labels=True).pixels.astype(np.uint8, copy=False))
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
