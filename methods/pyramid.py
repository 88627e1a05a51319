"""Pyramid loss: cross-entropy at several scales, as the RMI paper compares with.

`mean over s in {1/4, 1/2, 3/4, 1} of cross-entropy(logits at scale s, labels at scale s)`; logits are resized
bilinearly (corners not aligned), labels to the nearest by rounding down, as in that paper's code (Zhao et
al., NeurIPS 2019, arXiv 1910.12037): at 1/4 a label lies 1.5 pixels above and left of its logit.
Costs about twice `ce`. Coarse scales weigh large regions more than their details.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from methods.base import Method, cross_entropy

SCALES = (0.25, 0.5, 0.75, 1.0)


class Pyramid(Method):
    """Cross-entropy, averaged over scales."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if min(labels.shape[1:]) < 1 / min(SCALES):
            raise ValueError(
                f"an image of {[*labels.shape[1:]]} cannot be made {1 / min(SCALES):g} times smaller"
            )
        # mypy: a sum starts with the number 0
        return sum(cross_entropy(*_resized(logits, labels, scale)) for scale in SCALES) / len(SCALES)  # type: ignore[return-value]


def _resized(logits: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    if scale == 1:
        return logits, labels
    size = [int(scale * side) for side in labels.shape[1:]]
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    smaller = functional.interpolate(labels.unsqueeze(1).double(), size, mode="nearest").squeeze(1)
    return functional.interpolate(logits, size, mode="bilinear"), smaller.long()
