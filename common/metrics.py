"""Accuracy from confusion counts, so that every table is recomputed from files in seconds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.base import VOID

Counts = NDArray[np.int64]


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Counts:
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
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1).cpu().numpy()


def iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union per class, NaN for classes in neither truth nor prediction.

    Args:
        counts: `[…, K, K]`, rows are the truth.

    Returns:
        `[…, K]` in 0..1.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def mean_iou(counts: Counts) -> float:
    """The mean of `iou` over the classes that occur in the truth or the prediction.

    Raises:
        ValueError: No class occurs: there is not one labelled pixel.
    """
    values = iou(counts)
    occurring = ~np.isnan(values)
    if not occurring.any():
        raise ValueError("no pixel is labelled")
    return float(values[occurring].mean())


def pixel_accuracy(counts: Counts) -> float:
    """The share of labelled pixels that are right, in 0..1.

    Raises:
        ValueError: There is not one labelled pixel.
    """
    total = counts.sum()
    if not total:
        raise ValueError("no pixel is labelled")
    return float(np.trace(counts) / total)


def scores(counts: Counts, class_names: list[str]) -> dict[str, object]:
    """All scores of a split as JSON: IoU per class is null where the class does not occur."""
    per_class = iou(counts)
    return {
        "miou": mean_iou(counts),
        "pixel_accuracy": pixel_accuracy(counts),
        "iou": {n: None if np.isnan(v) else float(v) for n, v in zip(class_names, per_class)},
    }


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable class of every pixel: `[N, K, H, W]` to uint8 `[N, H, W]`."""
    return probabilities.argmax(dim=1).to(torch.uint8)
