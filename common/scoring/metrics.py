"""Accuracy from confusion counts, so that every table is recomputed from files in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from common.labels import VOID

if TYPE_CHECKING:
    from torch import Tensor

Confusion = NDArray[np.int64]
"""Confusion counts `[…, K, K]`: rows are the truth, columns the prediction."""


class AccuracyScores(TypedDict):
    """How many pixels of a split are right, in 0..1; the fields of `runs.records.Scores` of these names."""

    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Confusion:
    """Confusion counts of one image; void is left out.

    Args:
        predicted: Integers `[H, W]` in 0..K−1.
        labels: Integers `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.

    Returns:
        `[K, K]`: rows are the truth, columns the prediction.
    """
    valid = labels != VOID
    pairs = num_classes * labels[valid].long() + predicted[valid].long()
    return pairs.bincount(minlength=num_classes**2).view(num_classes, -1).cpu().numpy()


def iou(counts: Confusion) -> NDArray[np.float64]:
    """Intersection over union per class, NaN for classes in neither truth nor prediction.

    Args:
        counts: `[…, K, K]`, rows are the truth.

    Returns:
        `[…, K]` in 0..1.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return iou_of(hits, counts.sum(axis=-1) + counts.sum(axis=-2) - hits)


def iou_of(intersection: NDArray[np.integer], union: NDArray[np.integer]) -> NDArray[np.float64]:
    """Intersection over union, NaN where the union is empty."""
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)


def mean_iou(counts: Confusion) -> float:
    """The mean of `iou` over the classes that occur in the truth or the prediction.

    Raises:
        ValueError: No class occurs: there is not one labelled pixel.
    """
    values = iou(counts)
    occurring = ~np.isnan(values)
    if not occurring.any():
        raise ValueError("no pixel is labelled")
    return float(values[occurring].mean())


def pixel_accuracy(counts: Confusion) -> float:
    """The share of labelled pixels that are right, in 0..1.

    Raises:
        ValueError: There is not one labelled pixel.
    """
    total = counts.sum()
    if not total:
        raise ValueError("no pixel is labelled")
    return float(np.trace(counts) / total)


def scores(counts: Confusion, class_names: list[str]) -> AccuracyScores:
    """The accuracy of a split.

    Args:
        counts: `[K, K]`, the sum over its images.
        class_names: One name per class.

    Returns:
        The scores; the IoU of a class that does not occur is None.

    Raises:
        ValueError: There is not one labelled pixel.
    """
    return {
        "miou": mean_iou(counts),
        "pixel_accuracy": pixel_accuracy(counts),
        "iou": {
            name: None if np.isnan(value) else float(value) for name, value in zip(class_names, iou(counts))
        },
    }
