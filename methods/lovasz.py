"""Lovász-softmax loss (Berman et al., CVPR 2018, arXiv 1705.08790), from segmentation-models-pytorch.

The convex Lovász extension of the Jaccard index: `mean over present classes of Σ m₍ᵢ₎·g₍ᵢ₎`, where m are
the errors |yₖ − pₖ| of all valid pixels of the batch in falling order, and g is how much each step of
that order costs in 1 − IoU. It optimises mIoU directly. Costs a sort of all pixels per class: more than
`ce`, the more so on a CPU. Computed in float32 whatever the logits are, as the library does.

Alone it wants other learning rates than cross-entropy; its authors expect the best results where both are
combined, or cross-entropy comes first (the FAQ of https://github.com/bermanmaxim/LovaszSoftmax). In their
tracker (issue 5) a user reports for DeepLabV3 on Cityscapes 76.7 mIoU with cross-entropy, 64.7 with
Lovász-softmax in its place, and 78.4 with both. The entry `ce+lovasz` of the configuration is both, half and
half (`weight: 0.5`).
"""

from __future__ import annotations

from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor

from common.labels import VOID, valid_pixels
from methods.base import Method, cross_entropy


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
        valid_pixels(labels, logits.shape[1])  # refuses what is no label, which the library takes for void
        lovasz = self.criterion(logits, labels).sum()  # of nothing, if all pixels are void
        if self.weight == 1:
            return lovasz
        return self.weight * lovasz + (1 - self.weight) * cross_entropy(logits, labels)
