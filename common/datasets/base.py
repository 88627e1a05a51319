"""What a dataset is: named images with label maps, in splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.downloads.archives import Archive
from common.errors import UserError
from common.images.palette import Colour
from common.labels import VOID

VALIDATION = "val"
"""The split that is scored while a model is trained."""

PANEL_IMAGES = 3
"""How many images of a split the picture panels show."""


class FileFacts(NamedTuple):
    """What the files of an image say besides its pixels and labels.

    Attributes:
        labels: The file of its labels, for messages.
        orientation: The EXIF orientation that the image was turned by; 1 is not at all.
        palette: The colour that the label map gives to each class, where it has a palette that is not read.
        label_orientation: The EXIF orientation that the label map was turned by.
    """

    labels: str = ""
    orientation: int = 1
    palette: Mapping[int, Colour] = MappingProxyType({})
    label_orientation: int = 1


class Dataset(ABC):
    """Images with label maps. Options are the keyword arguments of a subclass's `__init__`.

    Creating one must be cheap and touch no file: the files are looked at by `names` and `read`.

    Attributes:
        entry: The name that the configuration gives it.
        splits: The names of the splits; no image is in two of them.
        joined: Other names for several splits together.
        class_names: One name per class; K is their number.
        colours: One RGB colour per class for pictures.
        official_colours: Whether others draw its classes in `colours`, too.
        unlabelled: Splits whose labels are known to be all void.
        allowed: The findings of the prepare stage that are no mistake (`common.datasets.judgement`).
        locations: Options that only say where files lie; results do not depend on them.
        grouping: Options that only say which images belong together; only intervals depend on them.
        archives: The files that it can be unpacked from.
        terms: What its licence allows, in one sentence.
    """

    entry: str = ""
    splits: tuple[str, ...] = ("train", "val", "test")
    joined: Mapping[str, tuple[str, ...]] = MappingProxyType({"trainval": ("train", "val")})
    class_names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    official_colours: bool = True
    unlabelled: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    locations: tuple[str, ...] = ()
    grouping: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    terms: str = ""

    def parts(self, split: str) -> list[str]:
        """The splits that `train`, `train+val` or a joined one stands for, each once.

        Raises:
            KeyError: There is no such split; the argument is the unknown name.
        """
        parts = {name: (name,) if name in self.splits else self.joined[name] for name in self.split_names()}
        return list(dict.fromkeys(part for name in split.split("+") for part in parts[name]))

    def split_names(self) -> list[str]:
        """All names that `parts` knows."""
        joined = [name for name, parts in self.joined.items() if {*parts} <= {*self.splits}]
        return list(dict.fromkeys([*self.splits, *joined]))

    def not_validated(self, training_split: str) -> str | None:
        """Why `VALIDATION` is not scored while models are trained; None if it is.

        Args:
            training_split: The split that they are trained on.
        """
        if VALIDATION not in self.splits:
            return f"it has no split {VALIDATION}"
        if VALIDATION in self.parts(training_split):
            return f"{VALIDATION} is trained on"
        return f"the labels of {VALIDATION} are not public" if VALIDATION in self.unlabelled else None

    @abstractmethod
    def names(self, split: str) -> list[str]:
        """The names of the images of one split, in order.

        Raises:
            UserError: The dataset is not where it should be.
        """

    @abstractmethod
    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One image `[H, W, 3]` in RGB and its labels `[H, W]` in 0..K−1 or 255 for void.

        Raises:
            UserError: A file is missing or damaged, the sizes differ or a label is not legal.
        """

    def kept(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """An image as `keep` has kept it, or another in its place: it is to be compared with the manifest.

        By default None: nothing is kept, and `read` is asked.
        """
        return None

    def keep(self) -> None:
        """Keeps what takes long to make, once all images were looked at; by default nothing."""
        return None

    def sequence(self, split: str, name: str) -> tuple[str, int] | None:
        """The sequence that an image belongs to, such as a video, and a number that grows along it.

        It goes by the name and touches no file. Neighbours in a sequence may resemble each other: how much is
        taken from the results. By default None: the image has nothing to do with any other.

        Raises:
            UserError: The option that says it does not fit the name.
        """
        return None

    def place(self) -> str | None:
        """Where its files lie, in words that tell other data in the same place; None if they are not here.

        By default None: it has no files. It is cheap, and reads no file.
        """
        return None

    def files(self, split: str, name: str) -> tuple[Path, ...]:
        """The files of an image and its labels, in the order in which `read` reads them; by default none.

        Raises:
            UserError: The dataset is not where it should be.
        """
        return ()

    def facts(self, split: str, name: str) -> FileFacts:
        """What the files of an image say besides its pixels and labels; by default nothing.

        Raises:
            UserError: A file is missing or damaged.
        """
        return FileFacts()

    def remedy(self, absent: set[int], void: bool) -> str:
        """What may be wrong with the options if classes have no pixel, as `: <clause>`; by default nothing.

        Args:
            absent: The labels of the classes that have none.
            void: Whether there is void.
        """
        return ""

    def values(self) -> tuple[int, ...]:
        """The value of every class in the label maps."""
        return tuple(range(len(self.class_names)))

    def option(self, against: Literal["palettes", "turned"]) -> str:
        """The option that helps against a finding of the prepare stage, as `, or <clause>`; by default none.

        Args:
            against: Label maps whose palettes do not agree, or that are of the stored pixels of images that
                EXIF data turn.
        """
        return ""


def check_labels(
    dataset: Dataset, split: str, name: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    """Checks what a dataset's `read` gave, so that no method ever meets a label that is none.

    Args:
        dataset: The dataset.
        split: The split of the image.
        name: The image's name.
        image: The image.
        labels: Its labels.

    Raises:
        UserError: It is no image `[H, W, 3]` with labels of its size in 0..K−1 or 255, all of them uint8.
    """
    place = f"dataset {dataset.entry}: {name} of {split}"
    if image.dtype != np.uint8 or labels.dtype != np.uint8 or image.shape != (*labels.shape, 3):
        kinds = f"{image.dtype} {[*image.shape]} with labels {labels.dtype} {[*labels.shape]}"
        raise UserError(f"{place} is read as {kinds}: its module must give uint8 [H, W, 3] and uint8 [H, W]")
    highest, last = int(labels.max(initial=0)), len(dataset.class_names) - 1
    if highest > last:
        wrong = labels[(labels > last) & (labels != VOID)]
        if wrong.size:
            raise UserError(
                f"{place} has the label {wrong[0]}: labels must be in 0..{last}, or {VOID} for void"
            )


def panel_indices(length: int) -> list[int]:
    """Which images of a split the picture panels show: spread evenly."""
    count = min(PANEL_IMAGES, length)
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]
