"""How good labels are at boundaries: trimap mIoU, Boundary IoU and the boundary F-score.

Void is treated alike in all of them. It is a label of its own where contours are looked for, and the
prediction is void wherever the truth is; so contours against void are the same in both, and a prediction that
is right at all labelled pixels is perfect. Void pixels themselves are in no band and on no contour.

All scores are functions of counts per image and class, so tables and intervals are recomputed from files.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from common.kernels.counts import boundary_counts
from common.scoring.metrics import iou_of

Labels = NDArray[np.uint8]

TRIMAP_WIDTHS = (1, 2, 4, 8, 16)
"""Widths of the trimap's bands in pixels."""

BAND = 0.02
"""Width of the bands of Boundary IoU, as a share of the image's diagonal (Cheng et al. 2021)."""

TOLERANCE = 0.0075
"""How far the boundary F-score lets contours be apart, as a share of the diagonal (Csurka et al. 2013)."""


class BoundaryCounts(NamedTuple):
    """Counts along boundaries, of one image or, with the dimension N in front, of many.

    Attributes:
        trimap: `[W, 3, K]`: hits, truth and prediction inside of the bands of `TRIMAP_WIDTHS`.
        boundary: `[2, K]`: intersection and union of the bands of Boundary IoU.
        contour: `[4, K]`: pixels of predicted contours, the matched ones of these, pixels of true contours,
            and the matched ones of these.
    """

    trimap: NDArray[np.int32]
    boundary: NDArray[np.int32]
    contour: NDArray[np.int32]


class BoundaryScores(TypedDict):
    """How good a split's labels are at boundaries, in 0..1, None where there is no boundary.

    They are the fields of `runs.records.Scores` of these names.
    """

    trimap_miou: dict[str, float | None]
    boundary_iou: float | None
    boundary_f: float | None
    boundary_iou_per_class: dict[str, float | None]
    boundary_f_per_class: dict[str, float | None]


def counts(predicted: Labels, labels: Labels, num_classes: int) -> BoundaryCounts:
    """The counts of one image.

    A trimap's bands are those of the truth: labelled pixels less than w pixels (between centres) from a
    pixel of the contour, so that the band reaches w pixels to either side of the line between two labels.
    The bands of Boundary IoU are what is taken away from the mask of every class when it is eroded by 3×3
    pixels w times; as in the authors' code, what lies outside of the image belongs to no mask.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
    """
    radius = TOLERANCE * float(np.hypot(*labels.shape))
    case = (predicted, labels, num_classes, TRIMAP_WIDTHS, band_width(labels.shape), radius)
    compiled = boundary_counts(*case)
    if compiled:
        return BoundaryCounts(*compiled)
    from common.scoring import plain_boundaries  # with filters of SciPy, which take long to import

    return BoundaryCounts(*plain_boundaries.boundary_counts(*case))


def band_width(shape: tuple[int, int]) -> int:
    """The width of the bands of Boundary IoU in pixels for an image of H, W pixels; at least 1."""
    return max(1, round(BAND * float(np.hypot(*shape))))


def scores(counts: BoundaryCounts, class_names: list[str]) -> BoundaryScores:
    """The scores of a split at boundaries.

    Args:
        counts: Of all N images, stacked.
        class_names: One name per class.
    """
    hits, truth, predicted = np.moveaxis(counts.trimap.sum(axis=0, dtype=np.int64), 1, 0)
    bands = iou_of(*counts.boundary.sum(axis=0, dtype=np.int64))
    each = boundary_f(counts.contour)
    means = _means(np.concatenate([iou_of(hits, truth + predicted - hits), bands[None]]))
    *trimap, boundary_iou = _numbers(means)
    return {
        "trimap_miou": dict(zip(map(str, TRIMAP_WIDTHS), trimap)),
        "boundary_iou": boundary_iou,
        "boundary_f": _numbers(_means(_means(each)[None]))[0],
        "boundary_iou_per_class": dict(zip(class_names, _numbers(bands))),
        "boundary_f_per_class": dict(zip(class_names, _numbers(_means(each.T)))),
    }


def boundary_f(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The boundary F-score of every image and class, NaN where neither map has a contour.

    The score of a split is the mean over images of the mean over classes (Csurka et al. 2013).

    Args:
        counts: `[…, 4, K]` as `counts` gives them.

    Returns:
        `[…, K]` in 0..1.
    """
    predicted, precise, truth, recalled = np.moveaxis(counts, -2, 0)
    precision, recall = precise / np.maximum(predicted, 1), recalled / np.maximum(truth, 1)
    total = precision + recall
    score = 2 * precision * recall / np.where(total > 0, total, 1.0)
    return np.where((predicted > 0) | (truth > 0), score, np.nan)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of every row of those that are not NaN, as if these stood alone; NaN where all are."""
    numbers = ~np.isnan(values)
    counts = numbers.sum(axis=1)
    means = np.full(len(values), np.nan)
    for count in {*counts.tolist()} - {0}:  # rows of as many are summed together, each in its own order
        rows = counts == count
        means[rows] = values[rows][numbers[rows]].reshape(-1, count).mean(axis=1)
    return means


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """The values for a record, which has None in place of NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]
