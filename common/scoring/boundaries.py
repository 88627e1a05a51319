"""How good labels are at boundaries: trimap mIoU, Boundary IoU and the boundary F-score.

Void is treated alike in all of them. It is a label of its own where contours are looked for, and the
prediction is void wherever the truth is; so contours against void are the same in both, and a prediction that
is right at all labelled pixels is perfect. Void pixels themselves are in no band and on no contour.

All scores are functions of counts per image and class, so tables and intervals are recomputed from files.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.labels import VOID
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

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
    """
    predicted = np.where(labels == VOID, VOID, predicted).astype(np.uint8)
    contours = contour(predicted), contour(labels)
    return BoundaryCounts(
        _trimap(predicted, labels, contours[1], num_classes),
        _boundary(predicted, labels, num_classes),
        _contour(predicted, labels, contours, num_classes),
    )


def contour(labels: Labels) -> NDArray[np.bool_]:
    """The pixels `[H, W]` of which one of the four neighbours has another label, void ones among them."""
    edges = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        one, other = _neighbours(edges, axis)
        differs = np.diff(labels.view(np.int8), axis=axis) != 0  # modulo 256, as good as any difference
        one |= differs
        other |= differs
    return edges


def _neighbours(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of all but the last, and all but the first, along an axis."""
    swapped = array.swapaxes(0, axis)
    return swapped[:-1].swapaxes(0, axis), swapped[1:].swapaxes(0, axis)


def _trimap(
    predicted: Labels, labels: Labels, edges: NDArray[np.bool_], num_classes: int
) -> NDArray[np.int32]:
    """Bands of the truth: labelled pixels less than w pixels (between centres) from a pixel of the contour.

    So the band of width w reaches w pixels to either side of the line between two labels.
    """
    rings = np.zeros((len(TRIMAP_WIDTHS), 3, num_classes), np.int32)  # between one width and the next
    if not edges.any():
        return rings
    distance = ndimage.distance_transform_edt(~edges)
    inside = (labels != VOID) & (distance < TRIMAP_WIDTHS[-1])
    truth, guess = labels[inside], predicted[inside]
    band = np.searchsorted(TRIMAP_WIDTHS, distance[inside], side="right")
    for place, (classes, chosen) in enumerate(((truth, truth == guess), (truth, ...), (guess, ...))):
        keys = (band * num_classes + classes)[chosen]
        rings[:, place] = np.bincount(keys, minlength=rings[:, 0].size).reshape(-1, num_classes)
    return rings.cumsum(axis=0, dtype=np.int32)


def _boundary(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int32]:
    """Intersection and union `[2, K]` of the bands along the boundaries of both maps."""
    bands = []
    for classes in (predicted, labels):
        band = boundary_band(classes, band_width(labels.shape))
        band &= labels != VOID
        bands.append(np.where(band, classes, VOID))
    both = bands[0][bands[0] == bands[1]]
    sizes = [np.bincount(band.ravel(), minlength=256)[:num_classes] for band in (both, *bands)]
    return np.stack([sizes[0], sizes[1] + sizes[2] - sizes[0]]).astype(np.int32)


def band_width(shape: tuple[int, int]) -> int:
    """The width of the bands of Boundary IoU in pixels for an image of H, W pixels; at least 1."""
    return max(1, round(BAND * float(np.hypot(*shape))))


def boundary_band(labels: Labels, width: int) -> NDArray[np.bool_]:
    """The pixels `[H, W]` that eroding their class's mask `width` times by 3×3 pixels takes away.

    As in the authors' code, what lies outside of the image belongs to no mask. One distance transform does
    for all classes, because the contour pixel that is nearest to a pixel has the pixel's label.
    """
    low = ndimage.minimum_filter(labels, 3, mode="nearest")
    edges = low != ndimage.maximum_filter(labels, 3, mode="nearest")
    edges[[0, -1]] = True
    edges[:, [0, -1]] = True
    return ndimage.distance_transform_cdt(~edges, "chessboard") < width


def _contour(
    predicted: Labels,
    labels: Labels,
    contours: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    num_classes: int,
) -> NDArray[np.int32]:
    """Pixels of contours `[4, K]`: predicted, of these matched, true, of these matched."""
    valid = labels != VOID
    lines = [np.where(edges & valid, classes, VOID) for edges, classes in zip(contours, (predicted, labels))]
    tolerance = TOLERANCE * float(np.hypot(*labels.shape))
    sizes = []
    for line, other in (lines, lines[::-1]):
        matched = _near(other, line, tolerance, num_classes)
        for chosen in (line, line[matched]):
            sizes.append(np.bincount(chosen.ravel(), minlength=256)[:num_classes])
    return np.stack(sizes).astype(np.int32)


def _near(points: Labels, queries: Labels, radius: float, num_classes: int) -> NDArray[np.bool_]:
    """Where `queries` has a class that `points` has within `radius`; both `[H, W]`, VOID is no class.

    Every class is one bit, so that a disc dilates all of them at once: row by row of the disc, the shortest
    first, as each row is the one before and some pixels more at its ends.
    """
    near = np.zeros(points.shape, bool)
    for first in range(0, num_classes, 64):
        bit = np.zeros(256, _word(min(64, num_classes - first)))
        for place in range(first, min(first + 64, num_classes)):
            bit[place] = 1 << (place - first)
        row = bit[points]
        source, disc, half = row.copy(), np.zeros_like(row), 0
        for offset in range(int(radius), -1, -1):
            while (half + 1) ** 2 + offset**2 <= radius**2:
                half += 1
                row[:, half:] |= source[:, :-half]
                row[:, :-half] |= source[:, half:]
            rest = max(0, len(row) - offset)
            disc[offset:] |= row[:rest]
            disc[:rest] |= row[offset:]
        near |= (disc & bit[queries]) != 0
    return near


def _word(bits: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer with so many bits."""
    return next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if np.iinfo(kind).bits >= bits)


def scores(counts: BoundaryCounts, class_names: list[str]) -> BoundaryScores:
    """The scores of a split at boundaries.

    Args:
        counts: Of all N images, stacked.
        class_names: One name per class.
    """
    hits, truth, predicted = np.moveaxis(counts.trimap.sum(axis=0, dtype=np.int64), 1, 0)
    trimap = iou_of(hits, truth + predicted - hits)
    band = iou_of(*counts.boundary.sum(axis=0, dtype=np.int64))
    f_scores = boundary_f(counts.contour)
    return {
        "trimap_miou": {str(width): _number(_mean(values)) for width, values in zip(TRIMAP_WIDTHS, trimap)},
        "boundary_iou": _number(_mean(band)),
        "boundary_f": _number(_mean(np.array([_mean(image) for image in f_scores]))),
        "boundary_iou_per_class": {name: _number(value) for name, value in zip(class_names, band)},
        "boundary_f_per_class": {
            name: _number(_mean(values)) for name, values in zip(class_names, f_scores.T)
        },
    }


def boundary_f(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The boundary F-score of every image and class, NaN where neither map has a contour.

    The score of a split is the mean over images of the mean over classes (Csurka et al. 2013).

    Args:
        counts: `[…, 4, K]` as `counts` gives them.

    Returns:
        `[…, K]` in 0..1.
    """
    predicted, precise, truth, recalled = np.moveaxis(counts.astype(float), -2, 0)
    precision = np.divide(precise, predicted, out=np.zeros_like(precise), where=predicted > 0)
    recall = np.divide(recalled, truth, out=np.zeros_like(recalled), where=truth > 0)
    total = precision + recall
    score = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return np.where(predicted + truth > 0, score, np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _number(value: float) -> float | None:
    """The value for a record, which has None in place of NaN."""
    return None if np.isnan(value) else float(value)
