"""ConvCRF inside the network: a CRF whose pixels see those of a window, unrolled and trained end to end.

Teichmann & Cipolla, "Convolutional CRFs for Semantic Segmentation", BMVC 2019, arXiv 1805.04777. At the size
of the network's input, with U the logarithm of the network's softmax, and S = U at first,

    S ← (1 − ω)·U + ω·message(softmax(S)),   logits: S after the last update

The message is the sum over a window of S×S cells around a pixel, weighted by the Gaussian kernels of
positions and of colours; the window bounds the second. It is computed on the image averaged over cells of
`blur`×`blur` pixels, and enlarged bilinearly. There is no normalisation. Defaults are those of the authors'
code: 11×11 cells of 4 pixels, widths 3 and 13, weights 3 and 10, ω = 0.2 for each class, 5 updates. There the
first message is that of U itself; here it is that of its softmax, as mean field has it.

Trained are ω and, by factors, each kernel's width and weight. As published, the network is trained first and
the CRF then: the entry `convcrf-after` of the configuration. Costs some passes over the scores at full size,
and 121 multiplications per cell, class and update.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.neighbours import squared_distances, window_messages
from methods.base import Method


class ConvCRF(Method):
    """A CRF with Gaussian kernels in windows, trained with the network or after it."""

    grid = "full"

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        size: int = 11,
        blur: int = 4,
        position: Sequence[float] = (3, 3.0),
        colour: Sequence[float] = (13, 10.0),
        weight: float = 0.2,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Updates, at least 1.
            size: Cells per side of a window, odd.
            blur: Pixels per side of a cell.
            position: Standard deviation in pixels and weight of the position kernel, at first.
            colour: Standard deviation in colour (0–255) and weight of the other, at first.
            weight: ω at first, the share of the message.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        for name, value, lowest in (("iterations", iterations, 1), ("size", size, 3), ("blur", blur, 1)):
            if not lowest <= value <= 100:
                raise ValueError(f"{name} must be at least {lowest} and at most 100, not {value!r}")
        if size % 2 == 0:
            raise ValueError(f"size must be odd, not {size!r}")
        for name, pair in (("position", position), ("colour", colour)):
            if len(pair) != 2 or not all(0 < value < float("inf") for value in pair):
                raise ValueError(f"{name} must be 2 positive numbers, not {pair!r}")
        if not 0 < weight < 1:
            raise ValueError(f"weight must be between 0 and 1, not {weight!r}")
        self.iterations, self.size, self.blur = iterations, size, blur
        self.first = (position, colour)
        self.share = nn.Parameter(torch.full((num_classes,), float(weight)))
        # As logarithms of factors: steps and weight decay are then relative to the first values.
        self.widths = nn.Parameter(torch.zeros(2))
        self.strengths = nn.Parameter(torch.zeros(2))

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        unary = unary.to(torch.promote_types(unary.dtype, torch.float32))  # mixed precision may be half
        with torch.autocast(unary.device.type, enabled=False):
            unary = self.enlarged(unary, images).log_softmax(dim=1)
            affinities = self._affinities(images.to(unary))
            share = self.share.view(-1, 1, 1)
            own, scores = (1 - share) * unary, unary
            for _ in range(self.iterations):
                message = window_messages(self._pooled(scores.softmax(dim=1)), affinities)
                scores = own + self._enlarged(share * message, own)  # the share is linear, and cheaper there
            return scores

    def _affinities(self, images: Tensor) -> Tensor:
        """The weighted sum of the kernels, `[N, S, S, cells, cells]`, of images `[N, 3, H, W]`."""
        rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(images).unsqueeze(0)
        result = images.new_zeros(())
        for index, seen in enumerate((places, images)):
            width, strength = self.first[index]
            distances = squared_distances(self._pooled(seen) / width, self.size)
            factor = -0.5 * (-2 * self.widths[index]).exp()
            result = result + strength * self.strengths[index].exp() * (factor * distances).exp()
        return result

    def _enlarged(self, message: Tensor, like: Tensor) -> Tensor:
        """Messages to cells, bilinearly at the pixels `[N, K, H, W]`."""
        if self.blur == 1:
            return message
        message = functional.interpolate(message, scale_factor=self.blur, mode="bilinear")
        top, left = self._padding(like)
        h, w = like.shape[2:]
        return message[:, :, top : top + h, left : left + w]

    def _pooled(self, values: Tensor) -> Tensor:
        """Means over cells, of which those at the border may be smaller."""
        return functional.avg_pool2d(
            values, self.blur, padding=self._padding(values), count_include_pad=False
        )

    def _padding(self, values: Tensor) -> tuple[int, int]:
        """By how much values `[N, C, H, W]` are padded on each side for whole cells."""
        lacking = [-side % self.blur for side in values.shape[2:]]
        return (lacking[0] + 1) // 2, (lacking[1] + 1) // 2
