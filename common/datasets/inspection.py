"""Looking at a dataset: every image is read once, and everything that is wrong is told at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from common.datasets.base import Dataset, FileFacts, panel_indices
from common.datasets.fingerprints import Reading, read
from common.datasets.judgement import Witness
from common.datasets.manifest import SplitManifest
from common.errors import UserError
from common.images.names import checked
from common.labels import VOID


@dataclass(frozen=True)
class Inspection:
    """What is in a dataset.

    Attributes:
        content_sha256: SHA-256 of all pixels and labels, with the split and the size of every image.
        splits: What is in every split.
        notes: What whoever reads results of it should know, in sentences.
        panel: What picture panels show: `<split>_image_<i>` `[H, W, 3]` and `<split>_labels_<i>` `[H, W]`.
    """

    content_sha256: str
    splits: dict[str, SplitManifest]
    panel: dict[str, NDArray[np.uint8]]
    notes: list[str]


def inspect(dataset: Dataset, training_splits: Sequence[str] = ()) -> Inspection:
    """Reads every image of every split.

    Args:
        dataset: The dataset.
        training_splits: The splits, or splits joined, that models are trained on.

    Raises:
        UserError: Some files are missing, damaged or not legal, or what they show is likely a mistake; the
            message lists everything.
    """
    problems: list[str] = []
    splits: dict[str, SplitManifest] = {}
    panel: dict[str, NDArray[np.uint8]] = {}
    content = hashlib.sha256()
    witness = Witness(dataset)
    for split in dataset.splits:
        try:
            names = dataset.names(split)
            for name in names:
                checked(name, split)
        except UserError as error:
            problems.append(str(error))
            continue
        shown = panel_indices(len(names))
        statistics = Statistics()
        prints = []
        for index, reading, facts in _read_all(dataset, split, names, problems, witness):
            image, labels, _ = reading
            prints.append(reading.line)
            witness.see(split, names[index], image, *statistics.add(image, labels), facts)
            content.update(f"{split} {image.shape}\n".encode())
            content.update(image.tobytes())
            content.update(labels.tobytes())
            if index in shown:
                panel[f"{split}_image_{shown.index(index)}"] = image
                panel[f"{split}_labels_{shown.index(index)}"] = labels
        places = [dataset.sequence(split, name) for name in names]
        splits[split] = statistics.manifest(names, dataset.class_names, places, prints)
    problems += _in_several_splits(splits)
    findings = witness.findings(training_splits)
    problems += findings.problems
    if problems:
        raise UserError(_summary(dataset.entry, problems))
    return Inspection(content.hexdigest(), splits, panel, findings.notes)


class Statistics:
    """What is counted over the images of one split."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()
        self.pixels = np.zeros(256, np.int64)
        self.images_with = np.zeros(256, np.int64)
        self.brightness = np.zeros((3, 256), np.int64)

    def add(
        self, image: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts an image `[H, W, 3]` and its labels `[H, W]`.

        Returns:
            How many of its pixels have each value of red, green and blue `[3, 256]`, and each label `[256]`.
        """
        height, width = labels.shape
        self.sizes.add((height, width))
        counts = _histogram(labels).reshape(256)
        brightness = _histogram(image).reshape(3, 256)
        self.pixels += counts
        self.images_with += counts > 0
        self.brightness += brightness
        return brightness, counts

    def manifest(
        self,
        names: list[str],
        class_names: Sequence[str],
        places: list[tuple[str, int] | None],
        prints: list[str],
    ) -> SplitManifest:
        """What the manifest says of the split.

        Args:
            names: Its images.
            class_names: One name per class.
            places: The sequence and the place in it of every image.
            prints: The fingerprints of every image.
        """
        mean, deviation = _mean_and_deviation(self.brightness)
        return SplitManifest(
            names=names,
            sizes=sorted({f"{width}x{height}" for height, width in self.sizes}),
            pixels=dict(zip(class_names, self.pixels.tolist())),
            images_with=dict(zip(class_names, self.images_with.tolist())),
            void_pixels=int(self.pixels[VOID]),
            colour_mean=mean,
            colour_std=deviation,
            sequences=places,
            fingerprints=prints,
        )


def _histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels have each of the 256 values, of one channel after the other."""
    return np.array(Image.fromarray(pixels).histogram(), np.int64)


MeanColour = tuple[float, float, float]
"""Red, green and blue, in 0–1."""


def _mean_and_deviation(brightness: NDArray[np.int64]) -> tuple[MeanColour, MeanColour]:
    """Of red, green and blue over all pixels, in 0–1, from how many pixels have each of the 256 values."""
    values = np.arange(256) / 255
    pixels = np.maximum(brightness.sum(axis=1), 1)
    mean = brightness @ values / pixels
    variance = np.maximum(brightness @ values**2 / pixels - mean**2, 0)
    (r, g, b), (dr, dg, db) = mean.round(6).tolist(), np.sqrt(variance).round(6).tolist()
    return (r, g, b), (dr, dg, db)


def _read_all(
    dataset: Dataset, split: str, names: list[str], problems: list[str], witness: Witness
) -> Iterator[tuple[int, Reading, FileFacts]]:
    """The images of a split that can be read, with their places in it; `problems` gets what is wrong."""
    for index, name in enumerate(tqdm(names, desc=split, unit="image", disable=None, dynamic_ncols=True)):
        try:
            reading = read(dataset, split, name)
            facts = dataset.facts(split, name)
        except UserError as error:
            problems.append(str(error))
            witness.miss(split)
        else:
            yield index, reading, facts


def _in_several_splits(splits: Mapping[str, SplitManifest]) -> list[str]:
    """A problem for every image that two splits have."""
    first_split: dict[str, str] = {}
    problems = []
    for split, content in splits.items():
        for name in content.names:
            other = first_split.setdefault(name, split)
            if other != split:
                problems.append(f"the image {name} is in both {other} and {split}")
    return problems


def _summary(name: str, problems: list[str]) -> str:
    """All problems of a dataset in one message."""
    distinct = list(dict.fromkeys(problems))
    if len(distinct) == 1:
        return f"dataset {name}: {distinct[0].removeprefix(f'dataset {name}: ')}"
    listed = "".join(f"  {problem}\n" for problem in distinct)
    return f"dataset {name}:\n{listed}dataset {name} has {len(distinct)} problems: mend them"
