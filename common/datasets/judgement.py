"""What is likely a mistake in a dataset, from what was counted in it: refused unless allowed, or noted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.datasets.base import Dataset, FileFacts
from common.images.decoding import TURNS
from common.images.palette import AgreeingPalettes

FINDINGS = ("absent_classes", "void_splits", "single_class", "repeated_images", "shared_labels", "palettes")
"""What `dataset_options.<name>.allow` may list:

- `absent_classes`: a class without a pixel in the images that models are trained on
- `void_splits`: a split without a pixel of any class
- `single_class`: a split with pixels of one class only
- `repeated_images`: the same pixels as images of two splits
- `shared_labels`: one file of labels for two images
- `palettes`: label maps whose palettes differ, or have the colours of the classes in another order
"""

LISTED = 3
"""How many names a sentence has."""


@dataclass
class Sighting:
    """What was seen in the files of one split.

    Attributes:
        pixels: How many pixels every label has, `[256]`.
        images: How many images could be read.
        flat: The images of one colour.
        turned: The images that were turned by EXIF data and would have the same size if they were not.
        turned_labels: Those whose label maps were turned by EXIF data of their own.
    """

    pixels: NDArray[np.int64]
    images: int = 0
    flat: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    turned_labels: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """Sentences about a dataset.

    Attributes:
        problems: What must be mended, or allowed.
        notes: What whoever reads its results should know.
    """

    problems: list[str]
    notes: list[str]


class Witness:
    """Sees all images of a dataset, and judges at the end."""

    def __init__(self, dataset: Dataset) -> None:
        """
        Args:
            dataset: The dataset.
        """
        self._dataset = dataset
        self._splits: dict[str, Sighting] = {}
        self._unread: dict[str, int] = {}
        self._first: dict[int, tuple[str, str]] = {}
        self._repeated: dict[tuple[str, str], list[str]] = {}
        self._label_files: dict[str, str] = {}
        self._shared: dict[str, list[str]] = {}
        colours = dataset.colours if dataset.official_colours else ()
        self._palettes = AgreeingPalettes(dataset.class_names, colours, dataset.values())

    def see(
        self,
        split: str,
        name: str,
        image: NDArray[np.uint8],
        brightness: NDArray[np.int64],
        labels: NDArray[np.int64],
        facts: FileFacts,
    ) -> None:
        """Sees an image.

        Args:
            split: Its split.
            name: Its name.
            image: Its pixels `[H, W, 3]`.
            brightness: How many of them have each value of red, green and blue, `[3, 256]`.
            labels: How many have each label, `[256]`.
            facts: What its files say besides.
        """
        sighting = self._splits.setdefault(split, Sighting(np.zeros(256, np.int64)))
        sighting.images += 1
        sighting.pixels += labels
        if (np.count_nonzero(brightness, axis=1) == 1).all():
            sighting.flat.append(name)
        square = image.shape[0] == image.shape[1]
        if facts.orientation in TURNS and (facts.orientation <= 4 or square):
            sighting.turned.append(name)
        if facts.label_orientation in TURNS:
            sighting.turned_labels.append(name)
        present = np.flatnonzero(labels[: len(self._dataset.class_names)]).tolist()
        self._repeat(split, name, hash((image.shape, image.tobytes())))
        self._share(split, name, facts.labels)
        self._palettes.add(facts.labels, facts.palette, present)

    def miss(self, split: str) -> None:
        """Counts an image that cannot be read."""
        self._unread[split] = self._unread.get(split, 0) + 1

    def _of(self, split: str) -> str:
        """A split, as sentences about all of its images name it."""
        unread = sum(self._unread.get(part, 0) for part in self._dataset.parts(split))
        return f"{split} ({unread} images of which cannot be read)" if unread else split

    def _repeat(self, split: str, name: str, pixels: int) -> None:
        """Remembers an image by a hash of its pixels of 64 bits, and whether there was one like it."""
        other_split, other = self._first.setdefault(pixels, (split, name))
        if other != name:
            self._repeated.setdefault((other_split, split), []).append(f"{name} (as {other})")

    def _share(self, split: str, name: str, labels: str) -> None:
        """Remembers the file of the labels of an image, and whether it is that of another image, too."""
        other = self._label_files.setdefault(os.path.realpath(labels), name) if labels else name
        if other != name:
            self._shared.setdefault(split, []).append(f"{name} (as {other})")

    def findings(self, training_splits: Sequence[str]) -> Findings:
        """What there is to say.

        Args:
            training_splits: The splits, or splits joined, that models are trained on.
        """
        allowed = self._dataset.allowed
        findings = Findings([], self._notes())
        by_kind = {
            "void_splits": self._void(),
            "absent_classes": self._absent(training_splits),
            "single_class": self._single(training_splits if "absent_classes" not in allowed else ()),
            "repeated_images": self._in_two_splits(),
            "shared_labels": [
                f"{images(names, split)} listed with the label map of another image: give each its own"
                for split, names in self._shared.items()
            ],
            "palettes": self._palettes_differ(),
        }
        for kind, sentences in by_kind.items():
            if kind in allowed:
                findings.notes += sentences
            else:
                allow = (
                    f"; if it is meant so, allow it by dataset_options.{self._dataset.entry}.allow: [{kind}]"
                )
                findings.problems += [sentence + allow for sentence in sentences]
        return findings

    def _labelled(self) -> dict[str, NDArray[np.int64]]:
        """The pixels of every class in the splits that have any."""
        classes = len(self._dataset.class_names)
        counts = {split: sighting.pixels[:classes] for split, sighting in self._splits.items()}
        return {split: pixels for split, pixels in counts.items() if pixels.any()}

    def _void(self) -> list[str]:
        """Splits without a class."""
        labelled = {*self._labelled(), *self._dataset.unlabelled}
        return [
            f"all pixels of {self._of(split)} are void: there is no class in it"
            for split in self._splits
            if split not in labelled
        ]

    def _absent(self, training_splits: Sequence[str]) -> list[str]:
        """Classes without a pixel in the images that models are trained on."""
        sentences = []
        for split in dict.fromkeys(training_splits):
            absent = self._missing(self._dataset.parts(split))
            if absent:
                names = [self._dataset.class_names[label] for label in absent]
                sentences.append(
                    f"{classes(names)} no pixel in {self._of(split)}, which models are trained on"
                    f"{self._remedy(split, {*absent})}"
                )
        return sentences

    def _missing(self, parts: Sequence[str]) -> list[int]:
        """The classes without a pixel in some splits; none if all that could be read there is void."""
        counts = [pixels for split, pixels in self._labelled().items() if split in parts]
        return np.flatnonzero(sum(counts) == 0).tolist() if counts else []

    def _remedy(self, split: str, absent: set[int]) -> str:
        """What the dataset says about classes that are absent from a split."""
        parts = self._dataset.parts(split)
        void = sum(int(self._splits[part].pixels[255]) for part in parts if part in self._splits)
        return self._dataset.remedy(absent, void > 0)

    def _single(self, reported: Sequence[str]) -> list[str]:
        """Splits with one class only.

        Args:
            reported: Splits whose absent classes are told anyway.
        """
        labelled = self._labelled()
        names = self._dataset.class_names
        if len(names) == 1:
            remedy = self._remedy("+".join(labelled), set()) if labelled else ""
            return [f"there is only one class, {names[0]}, which every pixel must have{remedy}"]
        parts = {part for split in reported for part in self._dataset.parts(split)}
        sentences = []
        for split, pixels in labelled.items():
            if np.count_nonzero(pixels) == 1 and split not in parts:
                absent = {*np.flatnonzero(pixels == 0).tolist()}
                only = names[int(np.argmax(pixels))]
                sentences.append(
                    f"{only} is the only class in {self._of(split)}{self._remedy(split, absent)}"
                )
        return sentences

    def _in_two_splits(self) -> list[str]:
        """Images of one split that are in another, too."""
        return [
            f"{images(names, split)} pixel for pixel in {other}, too: remove one of each pair"
            for (other, split), names in self._repeated.items()
            if other != split
        ]

    def _palettes_differ(self) -> list[str]:
        """Palettes that say something else than what is read."""
        option = self._dataset.option("palettes")
        return [f"{problem}: save them in grey{option}" for problem in self._palettes.problems()]

    def _notes(self) -> list[str]:
        """What is no mistake for certain."""
        notes = [
            f"{images(names, split)} there twice, pixel for pixel"
            for (other, split), names in self._repeated.items()
            if other == split
        ]
        for split, sighting in self._splits.items():
            if sighting.flat and len(sighting.flat) == sighting.images:
                notes.append(f"every image of {split} has one colour only: is it what it should be?")
            elif sighting.flat:
                notes.append(f"{images(sighting.flat, split)} of one colour only")
            if sighting.turned_labels:
                notes.append(
                    f"{images(sighting.turned_labels, split)} labelled by a map that is turned as its own "
                    "EXIF data say: look at it"
                )
            if sighting.turned:
                notes.append(
                    f"{images(sighting.turned, split)} turned as the EXIF data say, and no size tells "
                    "whether the label maps are: look at them; if they are not, turn them"
                    f"{self._dataset.option('turned')}"
                )
        return notes


def classes(names: Sequence[str]) -> str:
    """`the class sky has`, or `the classes car and sky have`."""
    if len(names) == 1:
        return f"the class {names[0]} has"
    return f"the classes {', '.join(names[:-1])} and {names[-1]} have"


def images(names: Sequence[str], split: str) -> str:
    """`the image a of train is`, or `5 images of train (a, b, c, …) are`."""
    if len(names) == 1:
        return f"the image {names[0]} of {split} is"
    more = ", …" if len(names) > LISTED else ""
    return f"{len(names)} images of {split} ({', '.join(names[:LISTED])}{more}) are"


def absent(class_names: Sequence[str], parts: Sequence[Mapping[str, int]]) -> list[str]:
    """The classes without a pixel.

    Args:
        class_names: All of them.
        parts: How many pixels every class has, in each of some splits.
    """
    return [name for name in class_names if not any(pixels[name] for pixels in parts)]
