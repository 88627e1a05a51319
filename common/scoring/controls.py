"""Labellings that no model made: the commonest class, and the truth seen through an output grid."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.datasets.manifest import Manifest
from common.kernels.grids import Alignment
from common.labels import VOID
from common.networks.network import Network, upsample
from common.networks.options import ModelOptions
from common.prediction.predictor import labels_of
from common.runs.jobs import Control

Labelling = Callable[[Tensor], Tensor]
"""From the true labels `[H, W]` of an image to those of a control."""


def labelling(control: Control, manifest: Manifest) -> Labelling:
    """The labelling of a control, by its name.

    Args:
        control: The control.
        manifest: Of its dataset.
    """
    dataset = control.data.dataset
    if control.name == "majority":
        return majority(manifest, dataset.parts(control.training_split))
    return Ceiling(control.model, control.model_options, len(dataset.class_names), control.grid)


def majority(manifest: Manifest, splits: Sequence[str]) -> Labelling:
    """The labelling with the commonest class of one or several splits."""
    pixels = np.array([list(manifest.splits[part].pixels.values()) for part in splits])
    commonest = int(pixels.sum(axis=0).argmax())
    return lambda labels: torch.full_like(labels, commonest)


class Ceiling:
    """The truth seen through a network's output grid."""

    def __init__(self, model: str, options: ModelOptions, num_classes: int, grid: int | str = 1) -> None:
        """
        Args:
            model: `<architecture>-<backbone>`.
            options: The model's options.
            num_classes: K.
            grid: How many times finer than that grid what it sees is, or `full`.
        """
        self.grid = grid
        self.network = Network(model, num_classes, replace(options, weights="none")).eval()
        self.shapes = copy.deepcopy(self.network).to("meta")  # only its shapes are needed
        self.num_classes = num_classes
        self.grids: dict[tuple[int, int], tuple[Tensor, list[int]]] = {}

    @torch.inference_mode()
    def __call__(self, labels: Tensor) -> Tensor:
        """Labels `[H, W]` of the same size, from shares of the labelled pixels of each cell."""
        height, width = labels.shape
        padded, grid = self._grid(height, width)
        below, right = padded.shape[2] - height, padded.shape[3] - width
        labels = functional.pad(labels, (0, right, 0, below), value=VOID).long()
        one_hot = functional.one_hot(labels.clamp(max=self.num_classes), self.num_classes + 1)
        one_hot = one_hot.permute(2, 0, 1)[None].float()
        sides = zip(grid, padded.shape[2:])
        rows, columns = (_windows(cells, side, self.network.alignment) for cells, side in sides)
        shares = rows @ one_hot @ columns.T
        shares = shares[:, :-1] / shares[:, :-1].sum(dim=1, keepdim=True).clamp(min=1e-6)
        return labels_of(upsample(shares, padded, (height, width), self.network.align_corners))[0]

    def _grid(self, height: int, width: int) -> tuple[Tensor, list[int]]:
        """The network's input, without content, and the sides of the grid that is seen through."""
        if (height, width) not in self.grids:
            padded = self.network.pad(torch.zeros(1, 3, height, width))
            try:
                output = self.shapes(padded.to("meta"))
            except RuntimeError:  # some networks look at numbers
                output = self.network(padded)
            cells = [self.grid * side for side in output.unary.shape[2:]] if self.grid != "full" else []
            self.grids[height, width] = padded, cells or [*padded.shape[2:]]
        return self.grids[height, width]


def _windows(cells: int, side: int, alignment: Alignment) -> Tensor:
    """How much of each pixel of a side lies in the window of each cell, `[cells, side]`.

    A window is as long as two neighbouring cells are apart; in its middle lies the place that upsampling
    gives the cell's scores to.
    """
    lengths = {
        "middles": side / cells,
        "corners": side // cells,
        "stretched": (side - 1) / max(1, cells - 1),
    }
    length = lengths[alignment]
    margin = 0 if alignment == "middles" else (1 - length) / 2  # from the first pixel's edge
    start = torch.arange(cells).unsqueeze(1) * length + margin
    pixel = torch.arange(side)
    overlap = torch.minimum(start + length, pixel + 1) - torch.maximum(start, pixel)
    return overlap.clamp(min=0).float()
