"""Binary cross-entropy: one yes-or-no question per class and pixel.

`Σ_classes Σ_valid pixels bce(logit, label = class) / (valid pixels + 1)`, as the RMI paper compares
with (Zhao et al., NeurIPS 2019, arXiv 1910.12037). Costs about as much as `ce`. The sum over classes
makes its values about K times larger than a mean would.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from methods.base import VOID, Method


class BinaryCrossEntropy(Method):
    """Sigmoid cross-entropy, summed over classes."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy(logits, labels)


def binary_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = VOID) -> Tensor:
    """Binary cross-entropy, summed over classes and divided by (valid pixels + 1).

    With `bce(x, y) = −log σ(−x) − x·y` no one-hot map is needed: `Σₖ bce = Σₖ −log σ(−xₖ) − x_label`.

    Args:
        logits: `[N, K, H, W]`; half precision is computed in float32.
        labels: Integers `[N, H, W]`. Whatever is not in 0..K−1, or is `ignore_index`, is void.
        ignore_index: A label that is void.

    Returns:
        A scalar.
    """
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    target = labels.long().where(valid, 0).unsqueeze(1)
    per_pixel = -functional.logsigmoid(-logits).sum(dim=1) - logits.gather(1, target).squeeze(1)
    return (per_pixel * valid).sum() / (valid.sum() + 1)


def valid_pixels(labels: Tensor, num_classes: int, ignore_index: int = VOID) -> Tensor:
    """True where a label is one of the classes and not void, `[N, H, W]`."""
    return (labels != ignore_index) & (labels >= 0) & (labels < num_classes)
