"""Dice loss (Milletari et al., 3DV 2016, arXiv 1606.04797), from segmentation-models-pytorch.

`mean over classes of 1 − 2·Σ pₖ·yₖ / (Σ pₖ + Σ yₖ)`, sums over all valid pixels of the batch, pₖ softmax
probabilities; classes that are absent from the batch contribute 0. Costs little more than `ce`. Every class
weighs the same however small it is, which helps rare classes; its gradients are noisy in small batches, so
it is often mixed with cross-entropy (`weight`).
"""

from __future__ import annotations

from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from methods.base import VOID, Method, cross_entropy


class Dice(Method):
    """Soft Dice on softmax probabilities, over the whole batch."""

    def __init__(self, num_classes: int, feature_channels: int, weight: float = 1.0) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            weight: The share of Dice in [0, 1]; the rest is cross-entropy.

        Raises:
            ValueError: The weight is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {weight!r}")
        self.weight = weight
        self.criterion = DiceLoss("multiclass", ignore_index=VOID)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        dice = self.criterion(logits, labels.long())
        if self.weight == 1:
            return dice
        return self.weight * dice + (1 - self.weight) * cross_entropy(logits, labels)
