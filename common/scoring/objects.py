"""How much of small, medium and large objects is right.

An object is a component of the truth: touching pixels of one class, corners included. The bounds of sizes are
those of COCO (Lin et al. 2014, arXiv 1405.0312): areas of 32² and 96² pixels, at the image's original size.
Labels have no instances, so neighbours of one class are one object, and what hides one divides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from common.kernels.counts import object_counts

Labels = NDArray[np.uint8]

SIZES = ("small", "medium", "large")

BOUNDS = (32**2, 96**2)
"""The least pixels of medium and of large objects."""


class ObjectScores(TypedDict):
    """The field of `runs.records.Scores` of this name, in 0..1; None for a size that no object has."""

    recall_by_size: dict[str, float | None]


def counts(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int32]:
    """The counts of one image.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.

    Returns:
        `[SIZES, 2, K]`: of the objects of a size and class, the pixels that are right, and all pixels.
    """
    compiled = object_counts(predicted, labels, num_classes, BOUNDS)
    return _plain_counts(predicted, labels, num_classes) if compiled is None else compiled


def _plain_counts(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int32]:
    """As `counts`, for machines without a C++ compiler."""
    from scipy import ndimage  # which takes long to import

    result = np.zeros((len(SIZES), 2, num_classes), np.int32)
    for k in range(num_classes):
        objects, number = ndimage.label(labels == k, structure=np.ones((3, 3)))
        pixels = np.bincount(objects.ravel(), minlength=number + 1)[1:]
        hits = np.bincount(objects[predicted == k], minlength=number + 1)[1:]
        sizes = np.searchsorted(BOUNDS, pixels, side="right")
        for row, numbers in enumerate((hits, pixels)):
            result[:, row, k] = np.bincount(sizes, weights=numbers, minlength=len(SIZES))
    return result


def scores(counts: NDArray[np.integer] | None) -> ObjectScores:
    """The recall of a split by the size of objects: of the pixels of a class, mean over classes with any.

    Args:
        counts: Of all N images, `[N, SIZES, 2, K]`; None where nobody counted.
    """
    if counts is None:
        return {"recall_by_size": dict.fromkeys(SIZES)}
    return {"recall_by_size": dict(zip(SIZES, map(_recall, counts.sum(axis=0, dtype=np.int64))))}


def _recall(counts: Sequence[NDArray[np.int64]]) -> float | None:
    """The mean recall of the classes that have objects of a size; None if no class has."""
    hits, pixels = counts
    present = pixels > 0
    return float((hits[present] / pixels[present]).mean()) if present.any() else None
