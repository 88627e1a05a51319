"""Binary cross-entropy: one yes-or-no question per class and pixel.

`Σ_classes Σ_valid pixels bce(logit, label = class) / (valid pixels + 1)`, as the RMI paper compares
with (Zhao et al., NeurIPS 2019, arXiv 1910.12037). Costs about as much as `ce`. The sum over classes
makes its values about K times larger than a mean would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from methods.base import VOID, Method

FACTORS = 64
"""So many factors of at most 2 do not overflow a float32."""

EXACT_BELOW = 40
"""Beyond it, softplus(x) is x to the last digit of a float64."""


class BinaryCrossEntropy(Method):
    """Sigmoid cross-entropy, summed over classes."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy(logits, labels)[0]


def binary_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = VOID) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, summed over classes and divided by (valid pixels + 1); and the probabilities.

    With `bce(x, y) = softplus(x) − x·y` no one-hot map is needed. Probabilities of 0 where the label is
    void keep void out of the derivatives, and are all that is kept for them.

    Args:
        logits: `[N, K, H, W]`; half precision is computed in float32.
        labels: Integers `[N, H, W]`. Whatever is not in 0..K−1, or is `ignore_index`, is void.
        ignore_index: A label that is void.

    Returns:
        A scalar, and the sigmoids of the logits `[N, K, H, W]`, 0 where the label is void.
    """
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    target = labels.long().where(valid, 0)
    total, probabilities = _BinaryCrossEntropy.apply(logits, target, valid)
    return total / (valid.sum() + 1), probabilities


def valid_pixels(labels: Tensor, num_classes: int, ignore_index: int = VOID) -> Tensor:
    """True where a label is one of the classes and not void, `[N, H, W]`."""
    return (labels != ignore_index) & (labels >= 0) & (labels < num_classes)


class _BinaryCrossEntropy(torch.autograd.Function):
    """The sum over valid pixels, and the probabilities: by hand, because autograd would keep four maps."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        target = target.unsqueeze(1)
        per_pixel = _softplus_sum(logits)
        per_pixel -= logits.gather(1, target).squeeze(1)
        probabilities = logits.sigmoid().mul_(valid.unsqueeze(1))
        ctx.save_for_backward(probabilities, target, valid)
        return (per_pixel * valid).sum(), probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, by_probabilities: Tensor) -> tuple[Tensor, None, None]:
        probabilities, target, valid = ctx.saved_tensors
        gradient = torch.ops.aten.sigmoid_backward(by_probabilities, probabilities)
        gradient.addcmul_(probabilities, by_total)
        return gradient.scatter_add_(1, target, -(by_total * valid).unsqueeze(1)), None, None


def _softplus_sum(logits: Tensor) -> Tensor:
    """The sum over classes of log(1 + exp(x)), `[N, H, W]`."""
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.softplus(logits, threshold=EXACT_BELOW).sum(dim=1)
    # On a CPU softplus goes number by number. As log(1 + exp(x)) = max(x, 0) + log(1 + exp(−|x|)), one
    # logarithm per pixel, of the product of the last terms, will do; less 1, so that no digit is lost.
    total = torch.zeros_like(logits[:, 0])
    for image, sums in zip(logits, total):
        for part in image.split(FACTORS):
            product = torch.zeros_like(sums)
            for scores in part:
                factor = scores.abs().neg_().exp_()
                product.addcmul_(product, factor).add_(factor)
                sums += scores.clamp(min=0)
            sums += product.log1p_()
    return total
