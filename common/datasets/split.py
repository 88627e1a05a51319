"""The images of one split, or of several joined, as tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from common.datasets.base import Dataset
from common.datasets.fingerprints import check, check_names, read, read_kept
from common.datasets.judgement import absent, classes
from common.datasets.manifest import Manifest
from common.errors import UserError


class Sample(NamedTuple):
    """One image, uint8 `[3, H, W]`, and its labels, uint8 `[H, W]`; or a batch of them, `[N, …]`."""

    image: Tensor
    labels: Tensor


class Split(TorchDataset[Sample]):
    """The images of one split (or of several, joined by `+`), at their original size.

    Attributes:
        dataset: Where the images come from.
        sizes: The sizes of the images, each once, as `<width>x<height>`.
        names: The part and the name of every image, in order.
        statistics: What the manifest says of every part.
    """

    def __init__(self, dataset: Dataset, manifest: Manifest, split: str) -> None:
        """
        Args:
            dataset: Where the images come from.
            manifest: What the prepare stage found there.
            split: Such as `train`, `train+val` or one that the dataset has joined.

        Raises:
            UserError: The dataset is not where it should be, or has other images than the manifest.
        """
        parts = dataset.parts(split)
        for part in parts:
            check_names(dataset, manifest, part)
        self.dataset, self._manifest = dataset, manifest
        self.statistics = [manifest.splits[part] for part in parts]
        self.sizes = {size for part in self.statistics for size in part.sizes}
        self.names = [(part, name) for part in parts for name in manifest.splits[part].names]
        self._fingerprints = [line for part in self.statistics for line in part.fingerprints]

    def colours(self) -> dict[str, tuple[float, ...]]:
        """The `mean` and `std` of red, green and blue over all pixels of all images, in 0–1."""
        pixels = np.array([sum(part.pixels.values()) + part.void_pixels for part in self.statistics])
        means = np.array([part.colour_mean for part in self.statistics])
        deviations = np.array([part.colour_std for part in self.statistics])
        mean = np.average(means, axis=0, weights=pixels)
        square = np.average(means**2 + deviations**2, axis=0, weights=pixels)
        deviation = np.sqrt(np.maximum(square - mean**2, 1 / 255**2))  # never 0: it is divided by
        return {"mean": tuple(mean.tolist()), "std": tuple(deviation.tolist())}

    def check_classes(self) -> None:
        """Checks that there is something of every class, to be trained on.

        A manifest may be older than the setting that says which split models are trained on.

        Raises:
            UserError: There is not, and it is not allowed.
        """
        without = absent(self.dataset.class_names, [part.pixels for part in self.statistics])
        if without and "absent_classes" not in self.dataset.allowed:
            split = "+".join(dict.fromkeys(part for part, _ in self.names))
            raise UserError(
                f"dataset {self.dataset.entry}: {classes(without)} no pixel in {split}, which the model is "
                "trained on: choose another training.split, or allow it by dataset_options."
                f"{self.dataset.entry}.allow: [absent_classes]"
            )

    def some(self, indices: Sequence[int]) -> Split:
        """The images of these indices alone; `sizes` and `statistics` remain those of the whole split."""
        part = copy.copy(self)
        part.names = [self.names[index] for index in indices]
        part._fingerprints = [self._fingerprints[index] for index in indices]
        return part

    @property
    def first_part(self) -> int:
        """How many images the first of the joined splits has; they come first."""
        return sum(part == self.names[0][0] for part, _ in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        expected = self._fingerprints[index]
        reading = read_kept(self.dataset, *self.names[index], expected)
        if reading is None:
            reading = read(self.dataset, *self.names[index])
            check(reading, expected, self._manifest)
        return Sample(torch.from_numpy(reading.image).permute(2, 0, 1), torch.from_numpy(reading.labels))
