"""Jaccard metric loss: the soft Jaccard index of what is predicted with the truth.

Wang et al., "Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels", NeurIPS 2023, arXiv
2302.05666; its forms per image are those of Wang et al., "Revisiting Evaluation Metrics for Semantic
Segmentation", NeurIPS 2023, arXiv 2310.19252. With x the softmax probabilities of a class at all valid pixels
and y its labels, 0 or 1:

    1 − (I + s) / (U + s),   I = (|x|₁ + |y|₁ − |x − y|₁) / 2,   U = |x|₁ + |y|₁ − I

Only classes that are there count. Over what the sums run is what `measure` says, so that the loss goes with a
measure: all images of the batch together (`dataset`, the usual mIoU), or each image alone, averaged over the
classes of each image and then over images (`image`), over the images of each class and then over classes
(`class`), or half of either (`image+class`). A quarter is cross-entropy, as the authors advise; s is 1, as in
the configurations of their code. Costs two to three times `ce`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from common.labels import valid_pixels
from methods.base import Method, cross_entropy

Measure = Literal["dataset", "image", "class", "image+class"]

MEASURES = ("dataset", "image", "class", "image+class")


class Jaccard(Method):
    """Jaccard metric loss, a quarter of it cross-entropy."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        measure: Measure = "dataset",
        weight: float = 0.75,
        smooth: float = 1.0,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            measure: Which mean of IoUs the loss goes with.
            weight: The share of the Jaccard loss in [0, 1]; the rest is cross-entropy.
            smooth: s, in pixels; not negative. With more, small regions count less.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {measure!r}")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {weight!r}")
        if not 0 <= smooth < float("inf"):
            raise ValueError(f"smooth must be a finite number and not negative, not {smooth!r}")
        self.measure: Measure = measure
        self.weight = weight
        self.smooth = smooth

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        jaccard = jaccard_loss(logits.softmax(dim=1), labels, self.measure, self.smooth)
        if self.weight == 1:
            return jaccard
        return self.weight * jaccard + (1 - self.weight) * cross_entropy(logits, labels)


def jaccard_loss(
    probabilities: Tensor, labels: Tensor, measure: Measure = "dataset", smooth: float = 1.0
) -> Tensor:
    """The Jaccard metric loss, mean over the classes that are there; 0, with a gradient, if none is.

    Args:
        probabilities: `[N, K, H, W]`, in 0–1.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.
        measure: Over what sums and means run.
        smooth: Is added to intersection and union.

    Returns:
        A scalar.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    classes = probabilities.shape[1]
    valid_pixels(labels, classes)  # refuses what is no label
    truth = labels.unsqueeze(1) == torch.arange(classes, device=labels.device).view(-1, 1, 1)
    truth = truth.to(probabilities.dtype).flatten(2)
    # What each class has of the pixels of each other, [N, K, K]: one pass over the probabilities.
    with torch.autocast(labels.device.type, enabled=False):  # it would make products of half precision
        shares = probabilities.flatten(2) @ truth.mT
    # Of labels that are 0 or 1, (|x| + |y| − |x − y|) / 2 is the sum of x where y is 1.
    intersection, count = shares.diagonal(dim1=1, dim2=2), truth.sum(dim=2)
    union = shares.sum(dim=2) + count - intersection
    if measure == "dataset":
        intersection, union, count = (x.sum(dim=0, keepdim=True) for x in (intersection, union, count))
    present = count > 0
    # Where smooth is 0 and a class is not there, 0 / 0 would have no derivative.
    losses = 1 - ((intersection + smooth) / (union + smooth).where(present, 1)).where(present, 1)
    of_image, of_class = (_mean_of_means(losses, present, dim) for dim in (1, 0))
    if measure == "image+class":
        return (of_image + of_class) / 2
    return of_class if measure == "class" else of_image


def _mean_of_means(losses: Tensor, present: Tensor, dim: int) -> Tensor:
    """The mean over one dimension, then over the other, of what is there.

    Args:
        losses: `[N, K]`, 0 where a class is not there.
        present: Booleans of that shape.
        dim: Over which the first mean runs.
    """
    counts = present.sum(dim=dim)
    means = losses.sum(dim=dim) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum().clamp(min=1)
