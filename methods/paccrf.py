"""PAC-CRF inside the network: mean field by pixel-adaptive convolutions, trained end to end.

Su et al., "Pixel-Adaptive Convolutional Neural Networks", CVPR 2019, arXiv 1904.05373. At the size of the
network's input, with its scores U, and S = U at first,

    S ← ω·U − Σ_dilations Σ_d exp(−‖cᵢ − cᵢ₊d‖²/2σ²) · W_d · softmax(S)ᵢ₊d,   logits: S after the last update

A filter has a matrix [K, K] for each of its 5×5 displacements d, which are 64 pixels apart, or 16: how little
the label there goes with the label here. They begin as Potts, [k ≠ l], times a Gaussian of the displacement
without its middle. c are colours. Trained are ω (at first 1), each dilation's σ (at first 30; by a factor)
and the filters. As published, the network is trained first, then the CRF alone (the entry `paccrf-after` of
the configuration), then both. Written from the paper, with the settings of the authors' code; the tiny noise
that it adds to the first filters is left out.

Costs 50 products of a K×K matrix with the scores of all pixels per update, and four times that in training.
`grid: 1` is a cheaper form that was not published: the same on the network's output grid, with the image
resized to it and dilations in its cells. In the configuration it is the entry `paccrf-grid-after`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.neighbours import squared_distances, window_messages
from methods.base import Method


class PacCRF(Method):
    """A CRF whose pairwise scores are learned filters, adapted to the image."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        size: int = 5,
        dilations: Sequence[int] = (64, 16),
        colour: float = 30.0,
        strength: float = 1.0,
        grid: Literal["full", 1] = "full",
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Updates, at least 1.
            size: Pixels per side of a filter, odd.
            dilations: By how many pixels (or cells) they are apart, for each filter.
            colour: σ at first, the standard deviation in colour (0–255).
            strength: A factor of the first filters: the smaller, the nearer they leave the network's scores.
            grid: Where the CRF is: at the size of the network's input, or on its output grid.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 1 <= iterations <= 100:
            raise ValueError(f"iterations must be at least 1 and at most 100, not {iterations!r}")
        if not 3 <= size <= 99 or size % 2 == 0:
            raise ValueError(f"size must be odd, at least 3 and at most 99, not {size!r}")
        if not dilations or not all(1 <= dilation <= 1000 for dilation in dilations):
            raise ValueError(f"dilations must be numbers from 1 to 1000, not {dilations!r}")
        for name, value in (("colour", colour), ("strength", strength)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if grid not in ("full", 1):
            raise ValueError(f"grid must be full or 1, not {grid!r}")
        self.iterations, self.size, self.dilations, self.colour = iterations, size, dilations, colour
        self.grid = grid
        self.weight = nn.Parameter(torch.ones(()))
        # As logarithms of factors: steps and weight decay are then relative to the first values.
        self.widths = nn.Parameter(torch.zeros(len(dilations)))
        potts = 1 - torch.eye(num_classes)
        filters = strength * potts[:, :, None, None] * _smoothing(size)
        self.filters = nn.Parameter(filters.repeat(len(dilations), 1, 1, 1, 1))

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        unary = unary.to(torch.promote_types(unary.dtype, torch.float32))  # mixed precision may be half
        with torch.autocast(unary.device.type, enabled=False):
            images = images.to(unary)
            if self.grid == "full":
                unary = self.enlarged(unary, images)
            else:
                images = functional.interpolate(images, unary.shape[2:], mode="bilinear", antialias=True)
            scales = (-2 * self.widths).exp() / self.colour**2
            filters = [
                (
                    squared_distances(images, self.size, dilation).mul(-scale / 2).exp(),
                    matrices,
                    dilation,
                )
                for dilation, scale, matrices in zip(self.dilations, scales, self.filters, strict=True)
            ]
            own, scores = self.weight * unary, unary
            for _ in range(self.iterations):
                marginals = scores.softmax(dim=1)
                scores = own
                for pair in filters:
                    scores = scores - window_messages(marginals, *pair)
            return scores


def _smoothing(size: int) -> Tensor:
    """A Gaussian of S/4 pixels on the window, whose mean is 1 before its middle is taken out, `[S, S]`."""
    places = torch.arange(size) - size // 2
    falling = torch.exp(-((4 * places / size) ** 2) / 2)
    result = torch.outer(falling, falling)
    result *= size**2 / result.sum()
    result[size // 2, size // 2] = 0
    return result
