"""Region mutual information loss (Zhao et al., NeurIPS 2019, arXiv 1910.12037).

The R×R neighbourhood of every pixel is one observation of an R²-dimensional variable, once of the
labels (Y) and once of the predicted probabilities (P), per class. The loss raises a lower bound of
their mutual information:

    λ·BCE + (1 − λ)·Σ_classes mean_images ½·logdet(Σ_{Y|P} + εI) / R²
    Σ_{Y|P} = Σ_Y − Σ_YP (Σ_P + εI)⁻¹ Σ_PY,   ε = 5e-4

Both maps are first pooled, so that the R×R window covers more of the image. The Σ are sums of outer
products of centred vectors over all positions of one image and class, not means. The loss can be
negative: the log-determinant of a small covariance is.

The Schur complement is never formed: its Cholesky factor is the lower right block of the factor of the
joint covariance with ε on its whole diagonal, which is positive definite for every finite input.
Covariances are float64, everything as large as the image has the logits' type. A training step costs
about as much more as `bce` and two passes over 2R² copies of the pooled maps (`snakemake kernels`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.windows import window_products
from common.labels import VOID, valid_pixels
from methods.base import Method, cross_entropy
from methods.bce import binary_cross_entropy, normalised_sigmoids

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
        softmax: bool = False,
    ) -> None:
        """The options are those of `RMILoss`."""
        super().__init__(num_classes, feature_channels)
        self.criterion = RMILoss(num_classes, radius, pool, pool_size, weight, softmax=softmax)
        self._latest: Tensor | None = None

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        value, self._latest = self.criterion.with_terms(logits, labels)
        return value

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, as published."""
        return cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids over their sum; the softmax if cross-entropy trains that."""
        if self.criterion.softmax and self.criterion.weight > 0:
            return super().probabilities(logits)
        return normalised_sigmoids(logits)

    def diagnostics(self) -> dict[str, float]:
        """The region term of each class in the latest loss, and their sum `rmi`. They can be negative."""
        if self._latest is None:
            return {}
        terms = self._latest.tolist()
        return {"rmi": sum(terms), **{f"rmi_class_{label}": term for label, term in enumerate(terms)}}


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
        softmax: bool = False,
    ) -> None:
        """
        Args:
            num_classes: K.
            radius: Side R of the neighbourhood, 1 to 10.
            pool: How labels and probabilities are made smaller first.
            pool_size: By how much, 1 to 8; 1 means not at all.
            weight: λ in [0, 1], the share of binary cross-entropy.
            ignore_index: The label of void.
            softmax: Whether cross-entropy stands in for BCE, as in the published code's variant. The region
                term has sigmoids there too, kept above 1e-6 instead of raised by it.

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
        self.softmax = softmax

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """
        Args:
            logits: `[N, K, H, W]`; half precision is computed in float32.
            labels: Integers `[N, H, W]` in 0..K−1, or void.

        Returns:
            A scalar; it can be negative.

        Raises:
            ValueError: The shapes do not fit, a label is neither a class nor void (on a GPU the program ends,
                later), or the pooled image is smaller than the radius.
        """
        return self.with_terms(logits, labels)[0]

    def with_terms(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its region term of each class before weighting, mean over images, `[K]`, detached."""
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must be [N, {self.num_classes}, H, W], not {[*logits.shape]}")
        if labels.shape != logits[:, 0].shape:
            raise ValueError(f"labels must be {[*logits[:, 0].shape]}, not {[*labels.shape]}")
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        valid = valid_pixels(labels, self.num_classes, self.ignore_index)
        pixelwise, probabilities = binary_cross_entropy(logits, labels, self.ignore_index)
        if self.softmax:
            pixelwise = cross_entropy(logits, labels.where(valid, VOID))
            probabilities = probabilities.clamp(min=PROBABILITY_FLOOR)
        terms = self._terms(probabilities, labels, valid)
        return self.weight * pixelwise + (1 - self.weight) * terms.sum(), terms.detach()

    def _terms(self, probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        truth, predicted = self._truth(labels, valid), self._pooled(probabilities)
        if not self.softmax:
            floor = torch.full_like(probabilities[:1, :1], PROBABILITY_FLOOR)
            predicted = predicted + (self._pooled(floor) if self.pool == "average" else PROBABILITY_FLOOR)
        if min(truth.shape[2:]) < self.radius:
            raise ValueError(
                f"the pooled image of {truth.shape[2]}×{truth.shape[3]} is smaller than the radius "
                f"{self.radius}: use larger crops, a smaller pool_size or a smaller radius"
            )
        entropy = conditional_entropy(truth, predicted, self.radius)
        return entropy.to(probabilities.dtype) / self.radius**2

    def _pooled(self, maps: Tensor) -> Tensor:
        size = self.pool_size
        if size == 1:
            return maps
        if self.pool == "average":
            return functional.avg_pool2d(maps, size, size, padding=size // 2)
        if self.pool == "max":
            return functional.max_pool2d(maps, size, size, padding=size // 2)
        return functional.interpolate(maps, self._pooled_shape(maps), mode="bilinear", align_corners=True)

    def _pooled_shape(self, maps: Tensor) -> tuple[int, int]:
        size, padding = self.pool_size, self.pool_size // 2
        if self.pool == "interpolate":
            h, w = (side // size for side in maps.shape[-2:])
            if 0 in (h, w):
                raise ValueError(f"pool_size {size} leaves nothing of an image of {[*maps.shape[-2:]]}")
        else:
            h, w = ((side + 2 * padding - size) // size + 1 for side in maps.shape[-2:])
        return h, w

    def _truth(self, labels: Tensor, valid: Tensor) -> Tensor:
        """The pooled one-hot labels `[N, K, h, w]` in float64, without one-hot labels of full size."""
        h, w = self._pooled_shape(labels) if self.pool_size > 1 else labels.shape[1:]
        size, padding = self.pool_size, self.pool_size // 2
        if self.pool == "interpolate" and size > 1:
            labels = labels.where(valid, -1).double().unsqueeze(1)
            labels = functional.interpolate(labels, (h, w), mode="nearest").squeeze(1).long()
            valid, size, padding = labels >= 0, 1, 0
        row = torch.arange(labels.shape[1], device=labels.device).add(padding if size > 1 else 0) // size
        column = torch.arange(labels.shape[2], device=labels.device).add(padding if size > 1 else 0) // size
        inside = valid & (row < h).unsqueeze(1) & (column < w)
        cell = (labels.long() * h + row.unsqueeze(1)) * w + column
        counts = torch.zeros(len(labels), self.num_classes * h * w, dtype=torch.double, device=labels.device)
        counts.scatter_add_(1, cell.where(inside, 0).flatten(1), inside.double().flatten(1))
        counts = counts.view(-1, self.num_classes, h, w)
        return counts.clamp(max=1) if self.pool == "max" else counts / size**2


def conditional_entropy(truth: Tensor, predicted: Tensor, radius: int) -> Tensor:
    """`½·logdet(Σ_{Y|P} + εI)`, the entropy of Y given P up to a constant, mean over images.

    Args:
        truth: The pooled labels, whose R×R windows are Y, `[N, K, h, w]`. Has no derivative.
        predicted: The pooled probabilities, whose windows are P, of the same shape.
        radius: R.

    Returns:
        `[K]` in float64.
    """
    n, k, h, w = truth.shape
    dimension = radius**2
    # Centred before, so that what is subtracted from the sums of products in the end is small.
    first, second = (_centred(x.flatten(0, 1).double()) for x in (predicted, truth))
    products, sums = window_products(first, second, radius)
    positions = (h - radius + 1) * (w - radius + 1)
    covariance = products - sums.unsqueeze(2) * sums.unsqueeze(1) / positions
    ridge = EPSILON * torch.eye(2 * dimension, dtype=torch.double, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge)
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, dimension:]
    diagonal = diagonal.where((failed == 0).unsqueeze(1), torch.nan)  # only of logits that are not finite
    return diagonal.log().sum(dim=1).view(n, k).mean(dim=0)


def _centred(maps: Tensor) -> Tensor:
    return maps - maps.mean(dim=(1, 2), keepdim=True)
