"""Guided filter: probabilities that follow the edges of the image, without a CRF.

He & Sun, "Fast Guided Filter", 2015, arXiv 1505.00996, after He et al., "Guided Image Filtering", ECCV 2010.
In every square of 2r+1 pixels a side the probabilities p of a class are fitted by a·I + b, with I the image
in grey and a ridge ε on a; each pixel gets the mean of its squares' fits at its grey:

    a = cov(I, p) / (var(I) + ε),   b = mean(p) − a·mean(I),   q = mean(a)·I + mean(b)

The fast form computes a and b on the image averaged over s×s pixels and enlarges their means bilinearly. It
keeps sums over classes; what falls below 0 is cut off, and the rest divided by its sum. The larger ε, the
closer to a mean over squares. It trains nothing: it refines the output of the model named by `trained_as`.
Costs a few passes over the probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from methods.base import Method

GREY = (0.299, 0.587, 0.114)
"""The shares of red, green and blue (ITU-R BT.601)."""


class GuidedFilter(Method):
    """A local linear fit of the probabilities by the image."""

    trained_as = "ce"

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        radius: int = 8,
        epsilon: float = 1e-4,
        subsampling: int = 4,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            radius: r in pixels of the image, at least `subsampling`.
            epsilon: ε for grey in 0–1: edges of less than its root are smoothed away.
            subsampling: s; 1 is the filter as it was before it was made fast.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        _check(radius, epsilon, subsampling)
        self.radius, self.epsilon, self.subsampling = radius, epsilon, subsampling

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        kind = torch.promote_types(probabilities.dtype, torch.float32)
        guide = images.to(kind) / 255
        guide = (guide * guide.new_tensor(GREY).view(3, 1, 1)).sum(dim=1, keepdim=True)
        options = (self.radius, self.epsilon, self.subsampling)
        result = guided_filter(guide, probabilities.to(kind), *options).clamp(min=0)
        return (result / result.sum(dim=1, keepdim=True)).to(probabilities.dtype)


def _check(radius: int, epsilon: float, subsampling: int) -> None:
    """Raises a ValueError that says which option is out of its range."""
    if not 1 <= subsampling <= 100:
        raise ValueError(f"subsampling must be at least 1 and at most 100, not {subsampling!r}")
    if not subsampling <= radius <= 1000:
        raise ValueError(f"radius must be at least {subsampling}, the subsampling, not {radius!r}")
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be a positive number, not {epsilon!r}")


def guided_filter(guide: Tensor, values: Tensor, radius: int, epsilon: float, subsampling: int = 1) -> Tensor:
    """The fast guided filter.

    Args:
        guide: I, `[N, 1, H, W]`.
        values: p, `[N, K, H, W]`, of the guide's type.
        radius: r in pixels.
        epsilon: ε.
        subsampling: s.

    Returns:
        q, `[N, K, H, W]`; linear in the values.

    Raises:
        ValueError: An option is out of its range.
    """
    _check(radius, epsilon, subsampling)
    cells = [-(-side // subsampling) for side in guide.shape[2:]]
    small, p = (functional.interpolate(x, cells, mode="area") for x in (guide, values))
    reach = round(radius / subsampling)
    middle = _means(small, reach)
    variance = _means(small * small, reach) - middle * middle
    mean = _means(p, reach)
    slope = (_means(small * p, reach) - middle * mean) / (variance + epsilon)
    fits = (slope, mean - slope * middle)
    slope, offset = (
        functional.interpolate(_means(fit, reach), guide.shape[2:], mode="bilinear") for fit in fits
    )
    return offset.addcmul_(slope, guide)


def _means(values: Tensor, reach: int) -> Tensor:
    """Means over squares of 2·reach + 1 cells a side, of which those at the border are smaller."""
    for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        values = functional.avg_pool2d(values, kernel, stride=1, padding=padding, count_include_pad=False)
    return values
