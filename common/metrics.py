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
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return iou_of(hits, counts.sum(axis=-1) + counts.sum(axis=-2) - hits)


def iou_of(intersection: NDArray[np.integer], union: NDArray[np.integer]) -> NDArray[np.float64]:
    """Intersection over union, NaN where the union is empty."""
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)


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


BINS = 15
"""Bins of confidence, of equal width."""

SMALLEST_PROBABILITY = 1e-12
"""Smaller probabilities count as this in the likelihood, so that a single pixel does not decide."""


def calibration(probabilities: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], float]:
    """What the calibration of one image is computed from; void is left out.

    Args:
        probabilities: `[K, H, W]`, summing to one over K.
        labels: Integers `[H, W]` in 0..K−1, or 255 for void, on the same device.

    Returns:
        `[BINS, 3]`: pixels, right ones and the sum of confidence where the most probable class has a
        probability in (i/BINS, (i+1)/BINS]; and the sum of −log p(truth) over pixels.
    """
    valid = labels != VOID
    truth = labels[valid].long()
    probabilities = probabilities.float()[:, valid]
    confidence, guess = probabilities.max(dim=0)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    columns = (torch.ones_like(confidence), guess == truth, confidence)
    sums = [torch.bincount(bins, weights=column.double(), minlength=BINS) for column in columns]
    likelihood = probabilities.gather(0, truth.unsqueeze(0)).clamp(min=SMALLEST_PROBABILITY)
    return torch.stack(sums, dim=1).cpu().numpy(), float(-likelihood.double().log().sum())


def calibration_scores(bins: NDArray[np.float64], nll: NDArray[np.float64]) -> dict[str, object]:
    """Expected calibration error (Guo et al. 2017) and negative log-likelihood per pixel, as JSON.

    Args:
        bins: `[N, BINS, 3]`, of each image.
        nll: `[N]`, of each image.

    Returns:
        `ece` in 0..1, `nll` in nats, and `reliability` with pixels, mean confidence and accuracy of each bin,
        null where it is empty.
    """
    pixels, right, confidence = bins.sum(axis=0).T
    filled = pixels > 0
    accuracy, mean = (
        np.divide(x, pixels, out=np.full(BINS, np.nan), where=filled) for x in (right, confidence)
    )
    gaps = np.abs(right - confidence).sum()
    return {
        "ece": float(gaps / pixels.sum()),
        "nll": float(nll.sum() / pixels.sum()),
        "reliability": {
            "pixels": [int(x) for x in pixels],
            "confidence": [float(x) if full else None for x, full in zip(mean, filled)],
            "accuracy": [float(x) if full else None for x, full in zip(accuracy, filled)],
        },
    }


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable class of every pixel: `[N, K, H, W]` to uint8 `[N, H, W]`."""
    return probabilities.argmax(dim=1).to(torch.uint8)
