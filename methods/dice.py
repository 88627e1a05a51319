"""Soft Dice loss, from segmentation-models-pytorch.

`mean over classes of 1 − 2·Σ pₖ·yₖ / (Σ pₖ + Σ yₖ)`, sums over all valid pixels of the batch, pₖ softmax
probabilities; classes that are absent from the batch contribute 0. The denominator without squares is that of
Drozdzal et al., "The Importance of Skip Connections in Biomedical Image Segmentation", 2016, arXiv 1608.04117
(Milletari et al., 3DV 2016, arXiv 1606.04797, have Σ pₖ² + Σ yₖ²); the mean over softmax classes is that of
nnU-Net (Isensee et al. 2018, arXiv 1809.10486). Costs little more than `ce`. Every class weighs the same
however small it is, which helps rare classes; its gradients are noisy in small batches.

nnU-Net adds cross-entropy with equal weight. So does the entry `ce+dice` of the configuration, half and half
(`weight: 0.5`); `dice` alone is rarely what is used.
"""

from __future__ import annotations

from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from common.labels import VOID, valid_pixels
from methods.base import Method, cross_entropy


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
        valid_pixels(labels, logits.shape[1])  # refuses what is no label
        dice = self.criterion(logits, labels.long())
        if self.weight == 1:
            return dice
        return self.weight * dice + (1 - self.weight) * cross_entropy(logits, labels)
