"""Datasets that lie in files: where they are, how pictures and label maps are read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.datasets.base import Dataset
from common.downloads.archives import Archive
from common.errors import UserError
from common.images.reading import from_values, read_colours, read_values
from common.provenance import ROOT

DATA = "STRUCTSEG_DATA"
"""The environment variable of the folder with all datasets; by default `data` beside the code."""

Item = TypeVar("Item")

Pairs = dict[str, tuple[Path, Path]]
"""The files of an image and its labels by name, in order."""


class FileDataset(Dataset, ABC):
    """Images and label maps in files below one folder. Subclasses say which belong together.

    Attributes:
        environment: The environment variable that names the folder.
        contents: What the folder must be, for messages.
        class_values: The value of each class in the files; 0..K−1 if it is empty.
        void_values: The values of void in the files, besides 255 unless that is a class.
    """

    locations: tuple[str, ...] = ("root",)
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
        self._pairs_by_split: dict[str, Pairs] = {}

    @property
    def folder(self) -> Path:
        """Where the dataset lies, or would if it was downloaded."""
        place = self.root or os.environ.get(self.environment)
        return Path(place).expanduser() if place else data_folder() / _module(self)

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
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            raise self.missing(path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        entries = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
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
    return Path(place).expanduser() if place else ROOT / "data"


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
