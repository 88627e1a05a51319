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

from typing import Literal

import torch
from torch import Tensor, nn
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
        valid = valid_pixels(labels, self.num_classes, self.ignore_index)
        target = labels.long().where(valid, self.num_classes)
        one_hot = functional.one_hot(target, self.num_classes + 1)[..., :-1].permute(0, 3, 1, 2)
        probabilities = logits.sigmoid() * valid.unsqueeze(1) + PROBABILITY_FLOOR
        truth = self._neighbourhoods(self._pooled(one_hot.to(logits.dtype), "nearest"))
        predicted = self._neighbourhoods(self._pooled(probabilities, "bilinear"))
        return conditional_entropy(truth, predicted).to(logits.dtype) / self.radius**2

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

    def _neighbourhoods(self, maps: Tensor) -> Tensor:
        """All R×R windows as vectors: `[N, K, h, w]` to `[N, K, R², positions]`."""
        n, k, h, w = maps.shape
        if min(h, w) < self.radius:
            raise ValueError(
                f"the pooled image of {h}×{w} is smaller than the radius {self.radius}: "
                "use larger crops, a smaller pool_size or a smaller radius"
            )
        windows = functional.unfold(maps.reshape(n * k, 1, h, w), self.radius)
        return windows.view(n, k, self.radius**2, -1)


def conditional_entropy(truth: Tensor, predicted: Tensor) -> Tensor:
    """`½·logdet(Σ_{Y|P} + εI)`, the entropy of Y given P up to a constant, mean over images.

    The Schur complement's Cholesky factor is the lower right block of the factor of the joint matrix
    with ε on its whole diagonal, which is positive definite for every finite input; nothing is inverted.

    Args:
        truth: Y, `[N, K, D, positions]`.
        predicted: P, of the same shape.

    Returns:
        `[K]` in float64.
    """
    dimension = truth.shape[2]
    joint = torch.cat([predicted, truth], dim=2).double()
    joint = joint - joint.mean(dim=3, keepdim=True)
    covariance = joint @ joint.transpose(2, 3)
    ridge = EPSILON * torch.eye(2 * dimension, dtype=torch.double, device=joint.device)
    factor = torch.linalg.cholesky(covariance + ridge)
    diagonal = factor.diagonal(dim1=2, dim2=3)[..., dimension:]
    return diagonal.log().sum(dim=2).mean(dim=0)
