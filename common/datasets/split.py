"""The images of one split, or of several joined, as tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from common.datasets.base import Dataset
from common.datasets.manifest import Manifest


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
        """
        parts = dataset.parts(split)
        self.dataset = dataset
        self.statistics = [manifest.splits[part] for part in parts]
        self.sizes = {size for part in self.statistics for size in part.sizes}
        self.names = [(part, name) for part in parts for name in manifest.splits[part].names]

    def colours(self) -> dict[str, tuple[float, ...]]:
        """The `mean` and `std` of red, green and blue over all pixels of all images, in 0–1."""
        pixels = np.array([sum(part.pixels.values()) + part.void_pixels for part in self.statistics])
        means = np.array([part.colour_mean for part in self.statistics])
        deviations = np.array([part.colour_std for part in self.statistics])
        mean = np.average(means, axis=0, weights=pixels)
        square = np.average(means**2 + deviations**2, axis=0, weights=pixels)
        deviation = np.sqrt(np.maximum(square - mean**2, 1 / 255**2))  # never 0: it is divided by
        return {"mean": tuple(mean.tolist()), "std": tuple(deviation.tolist())}

    @property
    def first_part(self) -> int:
        """How many images the first of the joined splits has; they come first."""
        return sum(part == self.names[0][0] for part, _ in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image, labels = self.dataset.read(*self.names[index])
        return Sample(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels))
