"""Lovász-softmax loss (Berman et al., CVPR 2018, arXiv 1705.08790).

The convex Lovász extension of the Jaccard index: `mean over present classes of Σ m₍ᵢ₎·g₍ᵢ₎`, where m are
the errors |yₖ − pₖ| of all valid pixels of the batch in falling order, and g is how much each step of
that order costs in 1 − IoU. It optimises mIoU directly. Costs a sort of all pixels per class that is there:
more than `ce`, the more so on a CPU. Computed in float32 whatever the logits are.

Alone it wants other learning rates than cross-entropy; its authors expect the best results where both are
combined, or cross-entropy comes first (the FAQ of https://github.com/bermanmaxim/LovaszSoftmax). In their
tracker (issue 5) a user reports for DeepLabV3 on Cityscapes 76.7 mIoU with cross-entropy, 64.7 with
Lovász-softmax in its place, and 78.4 with both. The entry `ce+lovasz` of the configuration is both, half and
half (`weight: 0.5`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.labels import valid_pixels
from methods.base import Method, cross_entropy

TOP = 2**30
"""More than the bits of any error, as a whole number, and even."""


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

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        lovasz = lovasz_softmax(logits.softmax(dim=1), labels)
        if self.weight == 1:
            return lovasz
        return self.weight * lovasz + (1 - self.weight) * cross_entropy(logits, labels)


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The Lovász extension of 1 − IoU, mean over the classes that are there; 0 if none is.

    For one order of the errors it is linear in the probabilities: so the order is all that has to be found,
    and second derivatives by the probabilities are 0. Errors are equal if all but their last bit is; of such,
    the class's own pixels come first.

    Args:
        probabilities: Float32 `[N, K, H, W]`, in 0–1.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

    Returns:
        A scalar.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    classes = probabilities.shape[1]
    valid = valid_pixels(labels, classes)
    labels = labels.where(valid, classes).flatten().int()
    counts = labels.bincount(minlength=classes + 1)[:classes].tolist()  # waits for a GPU
    present = [label for label, count in enumerate(counts) if count]
    factors = torch.zeros_like(probabilities, memory_format=torch.contiguous_format)
    constant = probabilities.new_zeros(())
    with torch.no_grad():
        for label in present:
            of_class = probabilities.detach()[:, label].flatten()
            slope, offset = _linear(of_class, labels, label, counts[label], classes)
            factors[:, label] = slope.div_(len(present)).view_as(factors[:, label])
            constant += offset / len(present)
    return torch.dot(probabilities.flatten(), factors.flatten()) + constant


def _linear(
    probabilities: Tensor, labels: Tensor, label: int, count: int, void: int
) -> tuple[Tensor, Tensor]:
    """The extension of one class as a linear function of its probabilities.

    With r pixels of the class behind place i of the order, the union of what is before and the class is
    i + r. There a pixel of the class costs `1 / union`, and another one `r / (union · (union − 1))`.

    Args:
        probabilities: Of the class at all pixels, `[P]`.
        labels: The pixels' labels, int32 `[P]`.
        label: The class.
        count: How many pixels have it, not 0.
        void: The label of void.

    Returns:
        The factors of the probabilities, `[P]`, 0 where void is, and a constant.
    """
    own = labels == label
    errors = torch.where(own, 1 - probabilities, probabilities).abs_()
    # Errors as whole numbers, with whose they are in the last bit: so nothing else has to be put in order.
    keys = TOP - errors.view(torch.int32).bitwise_and_(-2).bitwise_or_(own)
    keys.masked_fill_(labels == void, TOP + 2)
    keys, order = keys.sort()
    behind = count - (keys & 1).cumsum_(0, dtype=torch.int32)
    union = torch.arange(1, len(keys) + 1, dtype=torch.int32, device=keys.device).add_(behind)
    own = (keys & 1).bool()
    inverse = union.reciprocal()
    factors = torch.where(own, -1.0, behind / (union - 1)).mul_(inverse)
    factors.masked_fill_(keys > TOP, 0.0)
    return torch.empty_like(factors).scatter_(0, order, factors), inverse.mul_(own).sum()
