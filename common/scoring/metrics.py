"""Accuracy from confusion counts, so that every table is recomputed from files in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Overlaps:
    """What the IoU of every image is computed from, `[N, K]` each.

    Attributes:
        hits: The pixels of a class that are right.
        truth: Its pixels in the truth.
        union: Its pixels in the truth or the prediction.
    """

    hits: NDArray[np.int64]
    truth: NDArray[np.int64]
    union: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Confusion) -> Overlaps:
        """Those of the confusion counts of every image, `[N, K, K]`."""
        hits, truth = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
        return cls(hits, truth, truth + counts.sum(axis=-2) - hits)

    @cached_property
    def ious(self) -> NDArray[np.float64]:
        """Intersection over union, `[N, K]` in 0..1, NaN for classes that are not in the truth of an image.

        Wang et al. 2023 (arXiv 2310.19252): a class that is predicted but not there costs the others alone.
        """
        return iou_of(self.hits, np.where(self.truth > 0, self.union, 0))

    @cached_property
    def mious(self) -> NDArray[np.float64]:
        """The means of `ious` of every image, `[N]`; NaN for images without a labelled pixel."""
        return _known_mean(self.ious, axis=1)


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
    return _mean(iou(counts))


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the IoU of classes that occur."""
    occurring = ~np.isnan(values)
    if not occurring.any():
        raise ValueError("no pixel is labelled")
    return float(values[occurring].mean())


def image_scores(images: Overlaps) -> ImageScores:
    """The accuracy of a split image by image (Wang et al. 2023, arXiv 2310.19252).

    Args:
        images: Those of the split.

    Raises:
        ValueError: There is not one labelled pixel.
    """
    means = np.sort(images.mious[~np.isnan(images.mious)])
    if not means.size:
        raise ValueError("no pixel is labelled")
    classes = _known_mean(images.ious, axis=0)
    hits, truth, union = (counts.sum(axis=0) for counts in (images.hits, images.truth, images.union))
    return {
        "miou_i": float(means.mean()),
        "miou_c": float(np.nanmean(classes)),
        "worst_quarter": float(means[: max(1, int(WORST * means.size))].mean()),
        "worst_class": float(iou_of(hits, union)[truth > 0].min()),
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
    each = iou(counts)
    return {
        "miou": _mean(each),
        "pixel_accuracy": pixel_accuracy(counts),
        "iou": {
            name: None if math.isnan(value) else value for name, value in zip(class_names, each.tolist())
        },
    }
