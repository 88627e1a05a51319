"""Region mutual information loss (Zhao et al., NeurIPS 2019, arXiv 1910.12037).

The R×R neighbourhood of every pixel is one observation of an R²-dimensional variable, once of the
labels (Y) and once of the predicted probabilities (P), per class. The loss raises a lower bound of
their mutual information:

    λ·BCE + (1 − λ)·Σ_classes mean_images ½·logdet(Σ_{Y|P} + εI) / R²
    Σ_{Y|P} = Σ_Y − Σ_YP (Σ_P + εI)⁻¹ Σ_PY,   ε = 5e-4

Both maps are first pooled, so that the R×R window covers more of the image. The Σ are sums of outer
products of centred vectors over all positions of one image and class, not means. The loss can be
negative: the log-determinant of a small covariance is.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from methods.base import VOID, Method
from methods.bce import binary_cross_entropy, valid_pixels

Pool = Literal["average", "max", "interpolate"]

EPSILON = 5e-4
"""Added to the diagonals of Σ_P and of the Schur complement, as published."""

PROBABILITY_FLOOR = 1e-6
"""Added to the probabilities, as published."""


class RMI(Method):
    """Trains with the RMI loss; the network and its labels are as for `ce`."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        radius: int = 3,
        pool: Pool = "average",
        pool_size: int = 4,
        weight: float = 0.5,
    ) -> None:
        """The options are those of `RMILoss`."""
        super().__init__(num_classes, feature_channels)
        self.criterion = RMILoss(num_classes, radius, pool, pool_size, weight)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(logits, labels)


class RMILoss(nn.Module):
    """`weight · BCE + (1 − weight) · RMI`, numerically as published. It can be negative."""

    def __init__(
        self,
        num_classes: int,
        radius: int = 3,
        pool: Pool = "average",
        pool_size: int = 4,
        weight: float = 0.5,
        ignore_index: int = VOID,
    ) -> None:
        """
        Args:
            num_classes: K.
            radius: Side R of the neighbourhood, 1 to 10.
            pool: How labels and probabilities are made smaller first.
            pool_size: By how much, 1 to 8; 1 means not at all.
            weight: λ in [0, 1], the share of binary cross-entropy.
            ignore_index: The label of void.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes!r}")
        if radius not in range(1, 11):
            raise ValueError(f"radius must be an integer from 1 to 10, not {radius!r}")
        if pool not in ("average", "max", "interpolate"):
            raise ValueError(f"pool must be average, max or interpolate, not {pool!r}")
        if pool_size not in range(1, 9):
            raise ValueError(f"pool_size must be an integer from 1 to 8, not {pool_size!r}")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {weight!r}")
        self.num_classes = num_classes
        self.radius = radius
        self.pool = pool
        self.pool_size = pool_size
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """
        Args:
            logits: `[N, K, H, W]`; half precision is computed in float32.
            labels: Integers `[N, H, W]` in 0..K−1, or void.

        Returns:
            A scalar; it can be negative.

        Raises:
            ValueError: The shapes do not fit, or the pooled image is smaller than the radius.
        """
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must be [N, {self.num_classes}, H, W], not {[*logits.shape]}")
        if labels.shape != logits[:, 0].shape:
            raise ValueError(f"labels must be {[*logits[:, 0].shape]}, not {[*labels.shape]}")
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        bce = binary_cross_entropy(logits, labels, self.ignore_index)
        per_class = self.per_class(logits, labels)
        return self.weight * bce + (1 - self.weight) * per_class.sum()

    def per_class(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The RMI term of each class, mean over images: `[K]`. Arguments as in `forward`."""
        valid = valid_pixels(labels, self.num_classes, self.ignore_index).unsqueeze(1)
        target = labels.long().unsqueeze(1).where(valid, 0)
        truth = torch.zeros_like(logits).scatter_(1, target, valid.to(logits.dtype))
        probabilities = logits.sigmoid() * valid + PROBABILITY_FLOOR
        truth, predicted = self._pooled(truth, "nearest"), self._pooled(probabilities, "bilinear")
        if min(truth.shape[2:]) < self.radius:
            raise ValueError(
                f"the pooled image of {truth.shape[2]}×{truth.shape[3]} is smaller than the radius "
                f"{self.radius}: use larger crops, a smaller pool_size or a smaller radius"
            )
        return conditional_entropy(truth, predicted, self.radius).to(logits.dtype) / self.radius**2

    def _pooled(self, maps: Tensor, mode: str) -> Tensor:
        size = self.pool_size
        if size == 1:
            return maps
        if self.pool == "average":
            return functional.avg_pool2d(maps, size, size, padding=size // 2)
        if self.pool == "max":
            return functional.max_pool2d(maps, size, size, padding=size // 2)
        shape = (maps.shape[2] // size, maps.shape[3] // size)
        if 0 in shape:
            raise ValueError(f"pool_size {size} leaves nothing of an image of {[*maps.shape[2:]]}")
        corners = True if mode == "bilinear" else None
        return functional.interpolate(maps, shape, mode=mode, align_corners=corners)


def conditional_entropy(truth: Tensor, predicted: Tensor, radius: int) -> Tensor:
    """`½·logdet(Σ_{Y|P} + εI)`, the entropy of Y given P up to a constant, mean over images.

    The Schur complement's Cholesky factor is the lower right block of the factor of the joint matrix
    with ε on its whole diagonal, which is positive definite for every finite input; nothing is
    inverted.

    Args:
        truth: The pooled labels, whose R×R windows are Y, `[N, K, h, w]`.
        predicted: The pooled probabilities, whose windows are P, of the same shape.
        radius: R.

    Returns:
        `[K]` in float64.
    """
    n, k, h, w = truth.shape
    dimension = radius**2
    maps = torch.stack([predicted, truth], dim=2).reshape(n * k, 2, h, w).double()
    covariance = _WindowCovariance.apply(maps, radius).view(n, k, 2 * dimension, 2 * dimension)
    ridge = EPSILON * torch.eye(2 * dimension, dtype=torch.double, device=maps.device)
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge)
    diagonal = factor.diagonal(dim1=2, dim2=3)[..., dimension:]
    diagonal = diagonal.where((failed == 0).unsqueeze(2), torch.nan)  # only of logits that are not finite
    return diagonal.log().sum(dim=2).mean(dim=0)


class _WindowCovariance(torch.autograd.Function):
    """Σ over positions of x̄·x̄ᵀ, x̄ the centred vector of all channels' R×R windows at a position.

    `[B, C, h, w]` to `[B, C·R², C·R²]`. By hand, because autograd would keep and pass through four
    more copies of the unfolded windows. Maps are centred before they are unfolded, so that what is
    subtracted from the sums of products afterwards is small.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, radius: int) -> Tensor:
        centred = maps - maps.mean(dim=(2, 3), keepdim=True)
        windows = functional.unfold(centred, radius)
        mean = windows.mean(dim=2, keepdim=True)
        ctx.save_for_backward(centred, mean)
        ctx.radius = radius
        return windows @ windows.mT - windows.shape[2] * mean @ mean.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        centred, mean = ctx.saved_tensors
        windows = functional.unfold(centred, ctx.radius)
        both = gradient + gradient.mT
        windows = both @ windows - both @ mean  # the windows' own mean has no gradient: Σ x̄ = 0
        return functional.fold(windows, centred.shape[2:], ctx.radius), None
