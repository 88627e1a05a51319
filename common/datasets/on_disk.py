"""Datasets that lie in files: where they are, how pictures and label maps are read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.datasets import lists
from common.datasets.base import Dataset, FileFacts
from common.downloads.archives import Archive
from common.errors import Unreachable, UserError
from common.images.decoding import header, turned
from common.images.names import Names
from common.images.reading import from_values, read_turned, read_values
from common.installation import PACKAGE, ROOT
from common.labels import VOID

DATA = "STRUCTSEG_DATA"
"""The environment variable of the folder with all datasets; by default `data` beside the code, or, if that
is installed, in the working directory."""

PUBLISHED = frozenset({"repeated_images"})
"""What is allowed where the splits are as others use them, too, and mended by nobody: it is noted."""

Item = TypeVar("Item")

Pairs = dict[str, tuple[Path, Path]]
"""The files of an image and its labels by name, in order."""


class Sought(NamedTuple):
    """A file that a list names and that was not there when the list was read.

    Attributes:
        place: Where it is named.
        meaning: What it was taken to mean.
        names: The files among which it was looked for.
        name: The name that was looked for.
    """

    place: str
    meaning: str
    names: Names
    name: str

    def description(self) -> str:
        """What to say about it."""
        return f"named in {self.place}; {self.meaning}{self.names.nearest(self.name)}"


class FileDataset(Dataset, ABC):
    """Images and label maps in files below one folder. Subclasses say which belong together.

    Attributes:
        environment: The environment variable that names the folder.
        contents: What the folder must be, for messages.
        class_values: The value of each class in the files; 0..K−1 if it is empty.
        void_values: The values of void in the files.
        strict_void: Whether these are all; if not, 255 is void besides, unless it is a class.
        turn_labels: Whether label maps are of the stored pixels of images that EXIF data turn.
    """

    locations: tuple[str, ...] = ("root",)
    environment: str = ""
    contents: str = ""
    class_values: tuple[int, ...] = ()
    void_values: tuple[int, ...] = ()
    strict_void: bool = False
    turn_labels: bool = False

    def __init__(self, root: str | None = None) -> None:
        """
        Args:
            root: The folder; by default the value of the environment variable, or the one that
                `snakemake data_<name>` fills.
        """
        self.root = root
        self.entry = _module(self)
        self._pairs_by_split: dict[str, Pairs] = {}
        self._sought: dict[Path, Sought] = {}

    @property
    def folder(self) -> Path:
        """Where the dataset lies, or would if it was downloaded."""
        place = self.root or os.environ.get(self.environment)
        return Path(place).expanduser() if place else data_folder() / _module(self)

    def folders(self) -> tuple[Path, ...]:
        """The folders that all files are in; by default `folder` alone."""
        return (self.folder,)

    def place(self) -> str | None:
        """Path and inode of every folder: another disk may be mounted at the same path."""
        try:
            places = [f"{folder.absolute()} {folder.stat().st_ino}" for folder in self.folders()]
        except OSError:
            return None
        return ", ".join(places)

    @abstractmethod
    def pairs(self, split: str) -> Pairs:
        """Image and labels of every name of one split.

        Raises:
            UserError: They are not there.
        """

    def problem(self) -> UserError | None:
        """What is wrong with the lists of images, which are read anew, or None if they are all there."""
        try:
            for split in self.splits:
                self.pairs(split)
        except UserError as error:
            return error
        return None

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Labels `[H, W]` in 0..K−1 or 255 for void.

        Raises:
            UserError: The file is missing or damaged, or a label is not legal.
        """
        return from_values(read_values(path), self.values(), self.void(), path)

    def values(self) -> tuple[int, ...]:
        return self.class_values or tuple(range(len(self.class_names)))

    def void(self) -> tuple[int, ...]:
        """The values of void in the label maps."""
        return self.void_values if self.strict_void else tuple({*self.void_values, VOID} - {*self.values()})

    def names(self, split: str) -> list[str]:
        return list(self._pairs(split))

    def files(self, split: str, name: str) -> tuple[Path, ...]:
        return self._pairs(split)[name]

    def by_index(self, path: Path) -> bool:
        """Whether a label map is read by its values, whatever colours its palette gives them."""
        return path.suffix != ".mat"

    def facts(self, split: str, name: str) -> FileFacts:
        image, labels = self._pairs(split)[name]
        orientation = 1 if self.turn_labels else header(image).orientation
        if labels.suffix == ".mat":
            return FileFacts(str(labels), orientation)
        of_labels = header(labels)
        palette = of_labels.palette if self.by_index(labels) else None
        if palette is not None:
            triples = list(map(tuple, palette.tolist()))
            colours = {
                label: triples[value] for label, value in enumerate(self.values()) if value < len(triples)
            }
            return FileFacts(str(labels), orientation, colours, of_labels.orientation)
        return FileFacts(str(labels), orientation, label_orientation=of_labels.orientation)

    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pairs = self._pairs(split)
        if name not in pairs:
            raise UserError(
                f"{self.folder} has no image {name} in {split}: the data changed since it was "
                "prepared; delete its manifest in results/datasets/ and run again"
            )
        image_path, label_path = pairs[name]
        for path in (image_path, label_path):
            if path in self._sought and not path.exists():
                raise Unreachable(f"{path} is missing: {self._sought[path].description()}")
        if image_path == label_path:
            raise UserError(f"{image_path} is both image and label map: name two files")
        image, orientation = read_turned(image_path)
        labels = self.read_labels(label_path)
        if self.turn_labels:
            labels = turned(labels, orientation)
        if labels.shape != image.shape[:2]:
            raise UserError(self._sizes_differ(image_path, image, label_path, labels))
        return image, labels

    def _sizes_differ(
        self, image_path: Path, image: NDArray[np.uint8], label_path: Path, labels: NDArray[np.uint8]
    ) -> str:
        """What to say if an image and its labels have different sizes, both upright."""
        height, width = image.shape[:2]
        sizes = f"{label_path} is {labels.shape[1]}×{labels.shape[0]} but its image is {width}×{height}"
        if labels.shape != (width, height):
            return f"{sizes}: they must have the same size"
        if not self.turn_labels and header(image_path).orientation > 4:
            return (
                f"{sizes}, turned as its EXIF data say, and it fits the image as it is stored: save the "
                f"label map upright{self.option('turned')}"
            )
        return f"{sizes}, and fits only turned: turn one of them"

    def has(self, archive: Archive) -> bool:
        """Whether what an archive holds is there."""
        return all((self.folder / place).exists() for place in archive.places.values())

    def missing(self, path: Path) -> UserError:
        """What to say if a part of the dataset is not there."""
        place = f"dataset_options.{self.entry}.root"
        if path.is_relative_to(self.folder) and not self.folder.is_dir():
            get = f"get it with `snakemake data_{self.entry}`, or " if self.archives else ""
            either = f"the environment variable {self.environment} or {place}" if self.environment else place
            return UserError(
                f"dataset {self.entry}: there is no folder {self.folder}: {get}set {either} to "
                f"{self.contents}"
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
            entries = lists.lines(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise self.missing(path) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path} cannot be read as a text ({error}): save it in UTF-8") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if not entries:
            raise UserError(f"{path} lists no images: it must name one per line")
        return entries

    def _pairs(self, split: str) -> Pairs:
        """The files of a split, as `pairs` says; its lists are read once."""
        if split not in self._pairs_by_split:
            self._pairs_by_split[split] = self.pairs(split)
        return self._pairs_by_split[split]


def data_folder() -> Path:
    """The folder with all datasets that have no place of their own."""
    place = os.environ.get(DATA)
    return Path(place).expanduser() if place else (Path.cwd() if PACKAGE else ROOT) / "data"


def _module(dataset: Dataset) -> str:
    """The name of the module that a dataset is defined in."""
    return type(dataset).__module__.rpartition(".")[2]


def add(items: dict[str, Item], name: str, item: Item, place: str) -> None:
    """Adds what belongs to the name of an image.

    Args:
        items: What is added to.
        name: The name.
        item: What belongs to it.
        place: Where it is listed, for the message.

    Raises:
        UserError: There is one of that name.
    """
    if name in items:
        raise UserError(f"{place}: the image {name} is listed twice")
    items[name] = item
