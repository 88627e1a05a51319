"""Gated CRF loss: pixels of like colour in a window shall have like probabilities.

Obukhov et al., "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation", 2019, arXiv 1906.04651. To
cross-entropy comes the energy of a CRF between each pixel i and those j of a window around it, with a Potts
model relaxed to softmax probabilities p:

    weight · Σᵢⱼ k(i, j)·(1 − pᵢ·pⱼ) / number of pixels,   k a Gaussian of positions and colours

at a quarter of the resolution, where windows of 11×11 are 44 pixels wide. The gates are masks: void takes no
part. It needs no labels: it was made for clicks and scribbles, where it says what the others should be. With
all labels it is one more reason to put boundaries where colours change.

Weight 0.1, radius 5, deviations of 6 cells and of 0.1 in colours of unit variance are those of the authors'
code. There, probabilities are those of the network's own grid, of stride 4, here the averages of those of
full size; and the energy comes in after 0.5 % of the training. Costs about six times `ce`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.kernels.transforms import outside
from common.labels import valid_pixels
from methods.base import Method, cross_entropy

DEVIATIONS = (58.395, 57.12, 57.375)
"""Of red, green and blue over ImageNet's images, in 0–255: by these, colours have unit variance."""

SMALLEST = 40.0
"""Kernels below exp(−this) are 0."""


class GatedCRFLoss(Method):
    """Cross-entropy and the energy of a CRF with windows."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        weight: float = 0.1,
        radius: int = 5,
        sigma_xy: float = 6.0,
        sigma_rgb: float = 0.1,
        stride: int = 4,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            weight: Of the energy beside cross-entropy; not negative.
            radius: Of the windows, in cells of the smaller image, at least 1.
            sigma_xy: Standard deviation of positions, in these cells.
            sigma_rgb: Standard deviation of colours of unit variance.
            stride: How many times smaller images and probabilities are made, at least 1.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number and not negative, not {weight!r}")
        for name, value in (("sigma_xy", sigma_xy), ("sigma_rgb", sigma_rgb)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
        for name, count in (("radius", radius), ("stride", stride)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count!r}")
        self.weight = weight
        self.options = (radius, sigma_xy, sigma_rgb, stride)

    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        energy = gated_crf_energy(logits.softmax(dim=1), labels, images, *self.options)
        return cross_entropy(logits, labels) + self.weight * energy


def gated_crf_energy(
    probabilities: Tensor,
    labels: Tensor,
    images: Tensor,
    radius: int = 5,
    sigma_xy: float = 6.0,
    sigma_rgb: float = 0.1,
    stride: int = 4,
) -> Tensor:
    """The energy of a CRF with windows per pixel of the smaller image, over all images of the batch.

    Args:
        probabilities: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void; no matter which class.
        images: Colours in 0–255, `[N, 3, H, W]`.
        radius: Of the windows, in cells of the smaller image.
        sigma_xy: Standard deviation of positions, in these cells.
        sigma_rgb: Standard deviation of colours of unit variance.
        stride: How many times smaller all is made first, by averaging.

    Returns:
        A scalar; 0 if all is void. Squares of pixels of which one is void take no part.

    Raises:
        ValueError: An image is smaller than the stride, or a label is neither a class nor void (on a GPU the
            program ends, later).
    """
    if min(labels.shape[1:]) < stride:
        raise ValueError(f"an image of {[*labels.shape[1:]]} cannot be made {stride} times smaller")
    valid = valid_pixels(labels, probabilities.shape[1]).unsqueeze(1)
    smaller = functional.avg_pool2d(probabilities, stride)
    gate = 1 - functional.max_pool2d((~valid).to(smaller.dtype), stride)
    scale = images.new_tensor(DEVIATIONS).view(3, 1, 1) * sigma_rgb
    colours = functional.avg_pool2d(images.to(smaller.dtype) / scale, stride)
    with outside(colours) as constants:
        windows = Windows(constants, gate, radius, sigma_xy)
    energy = windows.total - (smaller * windows.filter(smaller)).sum()
    return energy / gate.sum().clamp(min=1)


class Windows:
    """A Gaussian kernel of positions and colours between the pixels of an image that are near each other.

    It is symmetric, and so kept once for every pair.

    Attributes:
        steps: Rows down and columns right from the first pixel of a pair to the second.
        kernels: Of all pairs of each step, `[N, 1, rows, columns]`.
        total: The sum over all pairs, each in both directions.
    """

    def __init__(self, colours: Tensor, gate: Tensor, radius: int, sigma_xy: float) -> None:
        """
        Args:
            colours: In units of their standard deviation, `[N, 3, h, w]`.
            gate: 1 for pixels that take part and 0 for others, `[N, 1, h, w]`.
            radius: The farthest pixels of a window are so many rows and columns away.
            sigma_xy: Standard deviation of positions.
        """
        h, w = gate.shape[2:]
        # Those below, and in the same row those to the right: so each pair comes once.
        rows, columns = range(min(radius, h - 1) + 1), range(-min(radius, w - 1), min(radius, w - 1) + 1)
        self.steps = [step for step in itertools.product(rows, columns) if step > (0, 0)]
        self.kernels = []
        for step in self.steps:
            first, second = _ends(colours, step)
            squares = (first - second).square_().sum(dim=1, keepdim=True)
            exponent = squares.add_((step[0] ** 2 + step[1] ** 2) / sigma_xy**2).mul_(-0.5)
            # What is too small to count is 0: processors take long for the smallest numbers there are.
            kernel = functional.threshold(exponent, -SMALLEST, -torch.inf).exp_()
            for end in _ends(gate, step):
                kernel *= end
            self.kernels.append(kernel)
        self.total = 2 * torch.stack([kernel.sum() for kernel in self.kernels] or [gate.new_zeros(())]).sum()

    def filter(self, values: Tensor) -> Tensor:
        """What the pixels of its window add up to for each pixel, weighted by the kernel.

        Args:
            values: `[N, C, h, w]`.

        Returns:
            The same shape; differentiable any number of times, in reverse and in forward mode.
        """
        return _Filter.apply(values, self)


class _Filter(torch.autograd.Function):
    """Filtering as a function with a derivative, which is the same filtering."""

    @staticmethod
    def forward(values: Tensor, windows: Windows) -> Tensor:
        result = torch.zeros_like(values)
        for step, kernel in zip(windows.steps, windows.kernels):
            first, second = _ends(values, step)
            of_first, of_second = _ends(result, step)
            of_first.addcmul_(kernel, second)
            of_second.addcmul_(kernel, first)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Windows], output: Tensor) -> None:
        ctx.windows = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.windows.filter(gradient), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return ctx.windows.filter(tangent)

    @staticmethod
    def vmap(info: Any, dimensions: tuple[Any, ...], values: Tensor, windows: Windows) -> tuple[Tensor, int]:
        """Values of several batches are so many more channels."""
        together = values.movedim(dimensions[0], 1).flatten(1, 2)
        return _Filter.apply(together, windows).unflatten(1, (info.batch_size, -1)), 1


def _ends(maps: Tensor, step: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the first pixels of all pairs have, and what those a step down and to the right of them have."""
    h, w = (side - abs(length) for side, length in zip(maps.shape[2:], step))
    first = maps[:, :, :h, max(0, -step[1]) :][..., :w]
    return first, maps[:, :, step[0] :, max(0, step[1]) :][..., :w]
