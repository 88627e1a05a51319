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
Covariances are float64, everything as large as the image has the logits' type. With average pooling the
logits are read once, for both parts of the loss, and once more for the derivative; so it costs little more
than `bce` (`snakemake kernels`). With `max`, `interpolate` or `softmax` it makes maps of the logits' size.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from common.kernels.sigmoids import cells_of, sigmoids, truth_of_cells
from common.kernels.windows import window_entropies
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
        if self.softmax or (self.pool != "average" and self.pool_size > 1):
            pixelwise, entropy = self._in_parts(logits, labels)
        else:
            pixelwise, entropy = self._in_one_pass(logits, labels)
        region = (1 - self.weight) / self.radius**2 * entropy.sum()
        terms = (entropy.detach() / self.radius**2).to(pixelwise.dtype)
        return self.weight * pixelwise + region.to(pixelwise.dtype), terms

    def _in_one_pass(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The pixelwise loss and the entropies `[K]` where both are made of sums of sigmoids."""
        valid_pixels(labels, self.num_classes, self.ignore_index)
        self._check_size(labels)
        sums = sigmoids(logits, labels, self.ignore_index, self.pool_size, PROBABILITY_FLOOR)
        entropy = conditional_entropy(sums.truth, sums.predicted, self.radius, self.pool_size**-2)
        return sums.cross_entropy, entropy

    def _in_parts(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The pixelwise loss and the entropies `[K]`, each by itself."""
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        valid = valid_pixels(labels, self.num_classes, self.ignore_index)
        self._check_size(labels)
        probabilities = logits.sigmoid() * valid.unsqueeze(1)
        if self.softmax:
            pixelwise = cross_entropy(logits, labels.where(valid, VOID))
            predicted = self._pooled(probabilities.clamp(min=PROBABILITY_FLOOR))
        else:
            pixelwise = binary_cross_entropy(logits, labels, self.ignore_index)
            predicted = self._pooled(probabilities) + PROBABILITY_FLOOR
        return pixelwise, conditional_entropy(self._truth(labels, valid), predicted, self.radius)

    def _check_size(self, labels: Tensor) -> None:
        """Refuses images that are smaller than a window when pooled."""
        h, w = self._pooled_shape(labels)
        if min(h, w) < self.radius:
            raise ValueError(
                f"the pooled image of {h}×{w} is smaller than the radius {self.radius}: use larger crops, a "
                "smaller pool_size or a smaller radius"
            )

    def _pooled(self, maps: Tensor) -> Tensor:
        """Probabilities, pooled."""
        size = self.pool_size
        if size == 1:
            return maps
        if self.pool == "average":
            return functional.avg_pool2d(maps, size, size, padding=size // 2)
        if self.pool == "max":
            return functional.max_pool2d(maps, size, size, padding=size // 2)
        return functional.interpolate(maps, self._pooled_shape(maps), mode="bilinear", align_corners=True)

    def _pooled_shape(self, maps: Tensor) -> tuple[int, int]:
        """Height and width of what is pooled."""
        size = self.pool_size
        if self.pool != "interpolate":
            h, w = (cells_of(side, size) for side in maps.shape[-2:])
            return h, w
        h, w = (side // size for side in maps.shape[-2:])
        if 0 in (h, w):
            raise ValueError(f"pool_size {size} leaves nothing of an image of {[*maps.shape[-2:]]}")
        return h, w

    def _truth(self, labels: Tensor, valid: Tensor) -> Tensor:
        """The pooled one-hot labels `[N, K, h, w]` in float64, without one-hot labels of full size."""
        size = self.pool_size
        if self.pool == "interpolate":
            labels = labels.where(valid, -1).double().unsqueeze(1)
            labels = (
                functional.interpolate(labels, self._pooled_shape(labels), mode="nearest").squeeze(1).long()
            )
            valid, size = labels >= 0, 1
        counts = truth_of_cells(labels, valid, self.num_classes, size)
        return counts.clamp(max=1) if self.pool == "max" else counts / size**2


def conditional_entropy(truth: Tensor, predicted: Tensor, radius: int, scale: float = 1.0) -> Tensor:
    """`½·logdet(Σ_{Y|P} + εI)`, the entropy of Y given P up to a constant, mean over images.

    Args:
        truth: The pooled labels, whose R×R windows are Y, `[N, K, h, w]`. Has no derivative.
        predicted: The pooled probabilities, whose windows are P, of the same shape.
        radius: R.
        scale: Both are multiplied by it first.

    Returns:
        `[K]` in float64.
    """
    n, k = truth.shape[:2]
    entropies = window_entropies(predicted.flatten(0, 1), truth.flatten(0, 1), radius, EPSILON, scale)
    return entropies.view(n, k).mean(dim=0)
