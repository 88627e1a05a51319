"""Binary cross-entropy: one yes-or-no question per class and pixel.

`Σ_classes Σ_valid pixels bce(logit, label = class) / (valid pixels + 1)`, as the RMI paper compares
with (Zhao et al., NeurIPS 2019, arXiv 1910.12037). Costs no more than `ce`: one pass over the logits, and one
for their derivative. The sum over classes makes its values about K times larger than a mean would. The class
probabilities that it trains are the sigmoids, over their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.kernels.sigmoids import sigmoids
from common.labels import VOID, valid_pixels
from methods.base import Method


class BinaryCrossEntropy(Method):
    """Sigmoid cross-entropy, summed over classes."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return normalised_sigmoids(logits)


def normalised_sigmoids(logits: Tensor) -> Tensor:
    """The sigmoid of each class over the sum of all, for logits of any size.

    Where all are negative they are first divided by exp(m), with m the highest: σ(x)/exp(m) is
    1 / (exp(m) + exp(m − x)). So not all become zero.

    Args:
        logits: `[N, K, H, W]`; half precision is computed in float32.

    Returns:
        `[N, K, H, W]`, summing to one over K. The class of the highest logit has the highest, by rounding's
        width where several sigmoids are one to the last digit.
    """
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    highest = logits.amax(dim=1, keepdim=True)
    divisor = highest.clamp(max=0)
    sigmoids = (divisor - logits).exp_().add(divisor.exp()).reciprocal_()
    rounding = 4 * torch.finfo(logits.dtype).eps
    sigmoids = sigmoids * (logits - highest).sign_().mul_(rounding).add_(1)
    return sigmoids / sigmoids.sum(dim=1, keepdim=True)


def binary_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = VOID) -> Tensor:
    """Binary cross-entropy, summed over classes and divided by (valid pixels + 1).

    With `bce(x, y) = softplus(x) − x·y` no one-hot map is needed.

    Args:
        logits: `[N, K, H, W]`; half precision is computed in float32.
        labels: Integers `[N, H, W]` in 0..K−1, or `ignore_index` for void.
        ignore_index: The label of void; it may be one of 0..K−1.

    Returns:
        A scalar in at least float32.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    valid_pixels(labels, logits.shape[1], ignore_index)
    return sigmoids(logits, labels, ignore_index).cross_entropy
