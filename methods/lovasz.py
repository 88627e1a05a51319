"""Lovász-softmax loss (Berman et al., CVPR 2018, arXiv 1705.08790), from segmentation-models-pytorch.

The convex Lovász extension of the Jaccard index: `mean over present classes of Σ m₍ᵢ₎·g₍ᵢ₎`, where m are
the errors |yₖ − pₖ| of all valid pixels of the batch in falling order, and g is how much each step of
that order costs in 1 − IoU. It optimises mIoU directly. Costs a sort of all pixels per class: more than
`ce`, the more so on a CPU. It starts slowly from random weights, so it is often mixed with cross-entropy
(`weight`). Computed in float32 whatever the logits are, as the library does.
"""

from __future__ import annotations

from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor

from methods.base import VOID, Method, cross_entropy


class Lovasz(Method):
    """Lovász-softmax over the whole batch."""

    def __init__(self, num_classes: int, feature_channels: int, weight: float = 1.0) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            weight: The share of Lovász-softmax in [0, 1]; the rest is cross-entropy.

        Raises:
            ValueError: The weight is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {weight!r}")
        self.weight = weight
        self.criterion = LovaszLoss("multiclass", ignore_index=VOID)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        lovasz = self.criterion(logits, labels).sum()  # of nothing, if all pixels are void
        if self.weight == 1:
            return lovasz
        return self.weight * lovasz + (1 - self.weight) * cross_entropy(logits, labels)
