"""Binary cross-entropy: one yes-or-no question per class and pixel.

`Σ_classes Σ_valid pixels bce(logit, label = class) / (valid pixels + 1)`, as the RMI paper compares
with (Zhao et al., NeurIPS 2019, arXiv 1910.12037). Costs about as much as `ce`. The sum over classes
makes its values about K times larger than a mean would. The class probabilities that it trains are the
sigmoids, over their sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.kernels.transforms import transformed
from common.labels import VOID, valid_pixels
from methods.base import Method

FACTORS = 64
"""So many factors of at most 2 do not overflow a float32."""

EXACT_BELOW = 40
"""Beyond it, softplus(x) is x to the last digit of a float64."""


class BinaryCrossEntropy(Method):
    """Sigmoid cross-entropy, summed over classes."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy(logits, labels)[0]

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


def binary_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = VOID) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, summed over classes and divided by (valid pixels + 1); and the probabilities.

    With `bce(x, y) = softplus(x) − x·y` no one-hot map is needed. Probabilities of 0 where the label is
    void keep void out of the derivatives, and are all that is kept for them.

    Args:
        logits: `[N, K, H, W]`; half precision is computed in float32.
        labels: Integers `[N, H, W]` in 0..K−1, or `ignore_index` for void.
        ignore_index: The label of void; it may be one of 0..K−1.

    Returns:
        A scalar, and the sigmoids of the logits `[N, K, H, W]`, 0 where the label is void.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    valid = valid_pixels(labels, logits.shape[1], ignore_index)
    target = labels.long().where(valid, 0)
    compute = _plain if transformed() else _BinaryCrossEntropy.apply
    total, probabilities = compute(logits, target, valid)
    return total / (valid.sum() + 1), probabilities


class _BinaryCrossEntropy(torch.autograd.Function):
    """The sum over valid pixels, and the probabilities: by hand, because autograd would keep four maps.

    Differentiable any number of times: the derivative is a plain function of the probabilities.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        target = target.unsqueeze(1)
        per_pixel = _softplus_sum(logits)
        per_pixel -= logits.gather(1, target).squeeze(1)
        probabilities = logits.sigmoid().mul_(valid.unsqueeze(1))
        ctx.save_for_backward(probabilities, target, valid)
        return (per_pixel * valid).sum(), probabilities

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, by_probabilities: Tensor) -> tuple[Tensor, None, None]:
        probabilities, target, valid = ctx.saved_tensors
        gradient = torch.ops.aten.sigmoid_backward(by_probabilities, probabilities)
        gradient.addcmul_(probabilities, by_total)
        return gradient.scatter_add_(1, target, -(by_total * valid).unsqueeze(1)), None, None


def _plain(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """What `_BinaryCrossEntropy` computes, by functions that PyTorch can transform."""
    softplus = functional.softplus(logits, threshold=EXACT_BELOW).sum(dim=1)
    per_pixel = softplus - logits.gather(1, target.unsqueeze(1)).squeeze(1)
    return (per_pixel * valid).sum(), logits.sigmoid() * valid.unsqueeze(1)


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
