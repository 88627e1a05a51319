"""Counts along the boundaries of a label map with NumPy and SciPy, for machines without a C++ compiler.

`common/scoring/boundaries.py` says what is counted; `common/kernels/counts.py` counts many times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.labels import VOID

Labels = NDArray[np.uint8]
Counts = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


def boundary_counts(
    predicted: Labels, labels: Labels, num_classes: int, widths: Sequence[int], band: int, radius: float
) -> Counts:
    """The counts of one image.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
        widths: Of the trimap's bands in pixels, ascending.
        band: The width of Boundary IoU's bands in pixels, at least 1.
        radius: How far matching contours may be apart, in pixels.

    Returns:
        Of the trimap `[W, 3, K]`, of the bands `[2, K]` and of the contours `[4, K]`, as in `BoundaryCounts`.
    """
    predicted = np.where(labels == VOID, VOID, predicted).astype(np.uint8)
    contours = contour(predicted), contour(labels)
    return (
        _trimap(predicted, labels, contours[1], num_classes, widths),
        _boundary(predicted, labels, num_classes, band),
        _contour(predicted, labels, contours, num_classes, radius),
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
    predicted: Labels, labels: Labels, edges: NDArray[np.bool_], num_classes: int, widths: Sequence[int]
) -> NDArray[np.int32]:
    """Bands of the truth: labelled pixels less than w pixels (between centres) from a pixel of the contour.

    So the band of width w reaches w pixels to either side of the line between two labels.
    """
    rings = np.zeros((len(widths), 3, num_classes), np.int32)  # between one width and the next
    if not edges.any():
        return rings
    distance = ndimage.distance_transform_edt(~edges)
    inside = (labels != VOID) & (distance < widths[-1])
    truth, guess = labels[inside], predicted[inside]
    band = np.searchsorted(widths, distance[inside], side="right")
    for place, (classes, chosen) in enumerate(((truth, truth == guess), (truth, ...), (guess, ...))):
        keys = (band * num_classes + classes)[chosen]
        rings[:, place] = np.bincount(keys, minlength=rings[:, 0].size).reshape(-1, num_classes)
    return rings.cumsum(axis=0, dtype=np.int32)


def _boundary(predicted: Labels, labels: Labels, num_classes: int, width: int) -> NDArray[np.int32]:
    """Intersection and union `[2, K]` of the bands along the boundaries of both maps."""
    bands = []
    for classes in (predicted, labels):
        band = boundary_band(classes, width)
        band &= labels != VOID
        bands.append(np.where(band, classes, VOID))
    both = bands[0][bands[0] == bands[1]]
    sizes = [np.bincount(band.ravel(), minlength=256)[:num_classes] for band in (both, *bands)]
    return np.stack([sizes[0], sizes[1] + sizes[2] - sizes[0]]).astype(np.int32)


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
    radius: float,
) -> NDArray[np.int32]:
    """Pixels of contours `[4, K]`: predicted, of these matched, true, of these matched."""
    valid = labels != VOID
    lines = [np.where(edges & valid, classes, VOID) for edges, classes in zip(contours, (predicted, labels))]
    sizes = []
    for line, other in (lines, lines[::-1]):
        matched = _near(other, line, radius, num_classes)
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
