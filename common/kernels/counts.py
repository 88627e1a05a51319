"""Counts of one image by compiled code (`cuda/counts.cpp`), for `common/scoring`.

A call is one thread's, which does not hold Python's lock meanwhile: as many images are counted at a time as
threads call. Every function gives None where there is no C++ compiler; what it computes is then computed by
plain NumPy and PyTorch, the same and slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.kernels import cpu

if TYPE_CHECKING:
    from torch import Tensor

WIDEST = 181
"""The widest trimap: twice its square is a number of 16 bits."""

Labels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def boundary_counts(
    predicted: Labels, labels: Labels, num_classes: int, widths: Sequence[int], band: int, radius: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]] | None:
    """What `common.scoring.plain_boundaries.boundary_counts` counts, by distances near contours alone.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
        widths: Of the trimap's bands in pixels, ascending.
        band: The width of Boundary IoU's bands in pixels, at least 1.
        radius: How far matching contours may be apart, in pixels.

    Returns:
        Of the trimap `[W, 3, K]`, of the bands `[2, K]` and of the contours `[4, K]`; None also where bands
        are too wide for it.
    """
    library = cpu.library("counts")
    if library is None or widths[-1] > WIDEST or band > np.iinfo(np.uint16).max:
        return None
    offsets = range(int(radius) + 1)
    halves, ends = np.array([_half(radius, x) for x in offsets], np.int32), np.array(widths, np.int32)
    maps = [np.ascontiguousarray(x, np.uint8) for x in (predicted, labels)]
    trimap = np.empty((len(ends), 3, num_classes), np.int32)
    boundary, contour = np.empty((2, num_classes), np.int32), np.empty((4, num_classes), np.int32)
    library.boundary_counts(
        *map(_pointer, maps),
        *map(ctypes.c_int64, (*labels.shape, num_classes)),
        _pointer(ends),
        *map(ctypes.c_int64, (len(ends), band)),
        _pointer(halves),
        ctypes.c_int64(len(halves) - 1),
        *map(_pointer, (trimap, boundary, contour)),
    )
    return trimap, boundary, contour


def _half(radius: float, offset: int) -> int:
    """How many pixels to either side belong to a disc, in its row so far from the centre."""
    half = 0
    while (half + 1) ** 2 + offset**2 <= radius**2:
        half += 1
    return half


def object_counts(
    predicted: Labels, labels: Labels, num_classes: int, bounds: Sequence[int]
) -> NDArray[np.int32] | None:
    """What `common.scoring.objects.counts` counts.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
        bounds: Of the sizes in pixels, ascending.

    Returns:
        `[sizes, 2, K]`.
    """
    library = cpu.library("counts")
    if library is None:
        return None
    maps = [np.ascontiguousarray(x, np.uint8) for x in (predicted, labels)]
    ends = np.array(bounds, np.int32)
    counts = np.empty((len(ends) + 1, 2, num_classes), np.int32)
    library.object_counts(
        *map(_pointer, maps),
        *map(ctypes.c_int64, (*labels.shape, num_classes)),
        _pointer(ends),
        ctypes.c_int64(len(ends)),
        _pointer(counts),
    )
    return counts


def pixel_counts(
    predicted: Labels,
    labels: Labels,
    num_classes: int,
    certainty: tuple[Floats, Floats] | None,
    bins: int,
    smallest: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], float] | None:
    """What `common.scoring.metrics.confusion` and `common.scoring.calibration.counts` count, in one go.

    Args:
        predicted: `[H, W]` in 0..K−1.
        labels: `[H, W]` in 0..K−1, or 255 for void.
        num_classes: K.
        certainty: The probabilities of the predicted and of the true labels, `[H, W]` each, if there are any.
        bins: Of confidence.
        smallest: The smallest probability that counts as it is.

    Returns:
        Confusion counts `[K, K]`, calibration `[bins, 3]` and the sum of −log p(truth).
    """
    library = cpu.library("counts")
    if library is None:
        return None
    maps = [np.ascontiguousarray(x, np.uint8) for x in (predicted, labels)]
    sure = [np.ascontiguousarray(x, np.float32) for x in certainty or ()]
    confusion, calibration = np.zeros((num_classes, num_classes), np.int64), np.zeros((bins, 3))
    surprise = np.zeros(1)
    library.pixel_counts(
        *map(_pointer, maps),
        *(map(_pointer, sure) if sure else (None, None)),
        *map(ctypes.c_int64, (labels.size, num_classes, bins)),
        ctypes.c_float(smallest),
        *map(_pointer, (confusion, calibration, surprise)),
    )
    return confusion, calibration, float(surprise[0])


def evidence(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """What `common.scoring.evidence.Evidence` has of one image, in one go.

    Args:
        probabilities: `[K, H, W]`, on the CPU, of any layout.
        labels: uint8 `[H, W]`.

    Returns:
        The most probable class and its probability, that of the truth, `[H, W]` each, and the lowest and the
        highest sum over classes, `[2]`.
    """
    library = cpu.library("counts")
    if library is None:
        return None
    import torch  # tables, which only add counts, have no other need of it

    pixels, truth = probabilities.float().flatten(1), labels.to(torch.uint8).contiguous()
    guess, sums = torch.empty_like(truth), torch.empty(2)
    confidence, likelihood = torch.empty(truth.shape), torch.empty(truth.shape)
    library.evidence(
        ctypes.c_void_p(pixels.data_ptr()),
        *map(ctypes.c_int64, pixels.stride()),
        ctypes.c_void_p(truth.data_ptr()),
        *map(ctypes.c_int64, (truth.numel(), len(pixels))),
        *(ctypes.c_void_p(x.data_ptr()) for x in (guess, confidence, likelihood, sums)),
    )
    return guess, confidence, likelihood, sums


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    """Where the numbers of an array lie; the array must live as long as that is used."""
    return ctypes.c_void_p(array.ctypes.data)
