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


WORST = 0.25
"""The share of images, rounded down to whole ones, that `worst_quarter` is of."""


class AccuracyScores(TypedDict):
    """How many pixels of a split are right, in 0..1; the fields of `runs.records.Scores` of these names."""

    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]


class ImageScores(TypedDict):
    """How good the images of a split are, in 0..1; the fields of `runs.records.Scores` of these names.

    Attributes:
        miou_i: The mean over images of the mean IoU over the classes in the image's truth (mIoU-I).
        miou_c: The mean over classes of the mean IoU over the images with the class in their truth (mIoU-C).
        worst_quarter: As `miou_i`, of the quarter of the images in which that is lowest.
        worst_class: The IoU over the whole split of the worst class of those in its truth.
    """

    miou_i: float
    miou_c: float
    worst_quarter: float
    worst_class: float


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


def image_ious(counts: Confusion) -> NDArray[np.float64]:
    """Intersection over union per image and class, NaN for classes that are not in the truth of the image.

    Wang et al. 2023 (arXiv 2310.19252): a class that is predicted but not there costs the others alone.

    Args:
        counts: Of every image, `[N, K, K]`, rows are the truth.

    Returns:
        `[N, K]` in 0..1.
    """
    return np.where(counts.sum(axis=-1) > 0, iou(counts), np.nan)


def image_mious(counts: Confusion) -> NDArray[np.float64]:
    """The mean of `image_ious` of every image; NaN for images without a labelled pixel.

    Args:
        counts: Of every image, `[N, K, K]`, rows are the truth.

    Returns:
        `[N]` in 0..1.
    """
    return _known_mean(image_ious(counts), axis=1)


def image_scores(counts: Confusion) -> ImageScores:
    """The accuracy of a split image by image (Wang et al. 2023, arXiv 2310.19252).

    Args:
        counts: Of every image, `[N, K, K]`, rows are the truth.

    Raises:
        ValueError: There is not one labelled pixel.
    """
    each = image_ious(counts)
    images, classes = _known_mean(each, axis=1), _known_mean(each, axis=0)
    images = np.sort(images[~np.isnan(images)])
    if not images.size:
        raise ValueError("no pixel is labelled")
    total = counts.sum(axis=0)
    return {
        "miou_i": float(images.mean()),
        "miou_c": float(np.nanmean(classes)),
        "worst_quarter": float(images[: max(1, int(WORST * images.size))].mean()),
        "worst_class": float(iou(total)[total.sum(axis=1) > 0].min()),
    }


def _known_mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The means of those that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    number = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(sums, number, out=np.full(number.shape, np.nan), where=number > 0)


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
