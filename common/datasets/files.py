"""Datasets that lie in files: where they are, how pictures and label maps are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.datasets.base import Archive, Colour, Dataset
from common.errors import Unreachable, UserError
from methods.base import VOID

DATA = "STRUCTSEG_DATA"
"""The environment variable of the folder with all datasets; by default `data` beside the code."""

Pairs = dict[str, tuple[Path, Path]]
"""The files of an image and its labels by name, in order."""


class FileDataset(Dataset):
    """Images and label maps in files below one folder. Subclasses say which belong together.

    Attributes:
        environment: The environment variable that names the folder.
        contents: What the folder must be, for messages.
        class_values: The value of each class in the files; 0..K−1 if it is empty.
        void_values: The values of void in the files, besides 255 unless that is a class.
    """

    locations = ("root",)
    environment: str = ""
    contents: str = ""
    class_values: tuple[int, ...] = ()
    void_values: tuple[int, ...] = ()

    def __init__(self, root: str | None = None) -> None:
        """
        Args:
            root: The folder; by default the value of the environment variable, or the one that
                `snakemake data_<name>` fills.
        """
        self.root = root
        self.entry = _module(self)
        self._known: dict[str, Pairs] = {}

    @property
    def folder(self) -> Path:
        """Where the dataset lies, or would if it was downloaded."""
        given = self.root or os.environ.get(self.environment)
        return Path(given).expanduser() if given else data_folder() / _module(self)

    def pairs(self, split: str) -> Pairs:
        """Image and labels of every name of one split.

        Raises:
            UserError: They are not there.
        """
        raise LookupError(split)

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Labels `[H, W]` in 0..K−1 or 255 for void.

        Raises:
            UserError: The file is missing or damaged, or a label is not legal.
        """
        values = self.class_values or tuple(range(len(self.class_names)))
        return from_values(read_values(path), values, self.void_values, path)

    def names(self, split: str) -> list[str]:
        return list(self._pairs(split))

    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pairs = self._pairs(split)
        if name not in pairs:
            raise UserError(
                f"{self.folder} has no image {name} in {split}: the data changed since it was "
                "prepared; delete its manifest in results/datasets/ and run again"
            )
        image_path, label_path = pairs[name]
        image = read_colours(image_path)
        labels = self.read_labels(label_path)
        if labels.shape != image.shape[:2]:
            raise UserError(
                f"{label_path} is {labels.shape[1]}×{labels.shape[0]} but its image is "
                f"{image.shape[1]}×{image.shape[0]}: they must have the same size"
            )
        return image, labels

    def has(self, archive: Archive) -> bool:
        """Whether what an archive holds is there."""
        return all((self.folder / place).exists() for place in archive.places.values())

    def missing(self, path: Path) -> UserError:
        """What to say if a part of the dataset is not there."""
        place = f"dataset_options.{self.entry}.root"
        if path.is_relative_to(self.folder) and not self.folder.is_dir():
            get = f"get it with `snakemake data_{self.entry}`, or " if self.archives else ""
            known = f"the environment variable {self.environment} or {place}" if self.environment else place
            return UserError(
                f"dataset {self.entry}: there is no folder {self.folder}: {get}set {known} to {self.contents}"
            )
        place = f"{self.environment} or {place}" if self.environment else place
        return UserError(f"{path} is missing: {place} must be {self.contents}")

    def existing(self, folder: Path) -> Path:
        """`folder` if it is one.

        Raises:
            UserError: It is not.
        """
        if not folder.is_dir():
            raise self.missing(folder)
        return folder

    def listed(self, path: Path) -> list[tuple[int, str]]:
        """The number and text of every line of a list of images that is not blank.

        Raises:
            UserError: The list is missing, unreadable or empty.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            raise self.missing(path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not found:
            raise UserError(f"{path} lists no images: it must name one per line")
        return found

    def _pairs(self, split: str) -> Pairs:
        if split not in self._known:
            self._known[split] = self.pairs(split)
        return self._known[split]


def data_folder() -> Path:
    """The folder with all datasets that have no place of their own."""
    given = os.environ.get(DATA)
    return Path(given).expanduser() if given else Path(__file__).resolve().parent.parent.parent / "data"


def _module(dataset: Dataset) -> str:
    return type(dataset).__module__.rpartition(".")[2]


def add(found: dict[str, Any], name: str, item: Any, place: str) -> None:
    """Adds what belongs to a name.

    Raises:
        UserError: There is one of that name; `place` says where this one is listed.
    """
    if name in found:
        raise UserError(f"{place}: the image {name} is listed twice")
    found[name] = item


# Pictures


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


def _read(path: Path, mode: str | None) -> NDArray[np.uint8]:
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


# From what files hold to labels


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
        illegal = sorted({*np.unique(values).tolist()} - {*classes, *void})
        known = f"{_ranges(classes)} and {' or '.join(map(str, void))} for void" if void else _ranges(classes)
        raise UserError(f"{path} has the labels {illegal}: only {known} are legal")
    return np.take(table, values)


def _ranges(values: Sequence[int]) -> str:
    """Such as 0–10, or 0–3, 7."""
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
        found = np.searchsorted(self.colours, packed).clip(max=len(self.colours) - 1)
        unknown = self.colours[found] != packed
        if self.refuse and unknown.any():
            raise UserError(f"{path} has {_named(packed[unknown])}, which are no class: {remedy}")
        return np.where(unknown, np.uint8(VOID), self.labels[found])


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


def voc_colours(first: int, last: int) -> tuple[Colour, ...]:
    """The colours of PASCAL VOC for the labels `first` to `last`.

    The bits of a label are dealt to red, green and blue in turn, beginning with the highest bit of each
    (VOC development kit, `VOClabelcolormap.m`).
    """

    def channel(label: int, offset: int) -> int:
        return sum((label >> (3 * place + offset) & 1) << (7 - place) for place in range(3))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(first, last + 1))
