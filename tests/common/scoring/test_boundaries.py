"""Boundary metrics beside their definitions, pixel by pixel, on random label maps with void."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from common.scoring import boundaries
from common.scoring.boundaries import BoundaryCounts

VOID = 255


@st.composite
def maps(draw: st.DrawFn) -> tuple[NDArray, NDArray, int]:
    """A predicted and a true label map: noise, or blobs of which one is the other with some changes."""
    classes = draw(st.integers(1, 6))
    shape = (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = draw(st.sampled_from([1, 3, 6]))
    cells = random.integers(0, classes, [n // side + 1 for n in shape])
    truth = cells.repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]].astype(np.uint8)
    changed = random.random(shape) < draw(st.sampled_from([0, 0.1, 1]))
    predicted = np.where(changed, random.integers(0, classes, shape), truth).astype(np.uint8)
    void = random.random(shape) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
    return predicted, np.where(void, VOID, truth).astype(np.uint8), classes


def pixels(shape: tuple[int, int]) -> list[tuple[int, int]]:
    return list(np.ndindex(*shape))


def direct_contour(labels: NDArray) -> set[tuple[int, int]]:
    edge = set()
    for y, x in pixels(labels.shape):
        around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        inside = [q for q in around if 0 <= q[0] < labels.shape[0] and 0 <= q[1] < labels.shape[1]]
        if any(labels[q] != labels[y, x] for q in inside):
            edge.add((y, x))
    return edge


def direct_trimap(predicted: NDArray, labels: NDArray, classes: int) -> NDArray:
    edges = direct_contour(labels)
    counts = np.zeros((len(boundaries.TRIMAP_WIDTHS), 3, classes), int)
    for place, width in enumerate(boundaries.TRIMAP_WIDTHS):
        for p in pixels(labels.shape):
            if labels[p] != VOID and any(math.dist(p, q) < width for q in edges):
                counts[place, 0, labels[p]] += labels[p] == predicted[p]
                counts[place, 1, labels[p]] += 1
                counts[place, 2, predicted[p]] += 1
    return counts


def direct_boundary(predicted: NDArray, labels: NDArray, classes: int) -> NDArray:
    """As in the code of Cheng et al.: erosion of every class's mask by 3×3, the outside in no mask."""
    width = max(1, round(0.02 * math.hypot(*labels.shape)))
    counts = np.zeros((2, classes), int)
    for k in range(classes):
        bands = []
        for mask in ((predicted == k) & (labels != VOID), labels == k):
            eroded = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
            bands.append(mask & ~eroded)
        counts[:, k] = (bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()
    return counts


def direct_contour_counts(predicted: NDArray, labels: NDArray, classes: int, tolerance: float) -> NDArray:
    painted = np.where(labels == VOID, VOID, predicted)
    counts = np.zeros((4, classes), int)
    for k in range(classes):
        lines = [[p for p in direct_contour(m) if m[p] == k] for m in (painted, labels)]
        for row, (line, other) in enumerate((lines, lines[::-1])):
            counts[2 * row, k] = len(line)
            counts[2 * row + 1, k] = sum(any(math.dist(p, q) <= tolerance for q in other) for p in line)
    return counts


def counted(predicted: NDArray, labels: NDArray, classes: int) -> BoundaryCounts:
    """The counts of compiled code, which are those of plain code."""
    compiled = boundaries.counts(predicted, labels, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "boundary_counts", lambda *_: None)  # as without a compiler
        plain = boundaries.counts(predicted, labels, classes)
    for array, other in zip(compiled, plain):
        assert array.dtype == other.dtype and np.array_equal(array, other)
    return compiled


@settings(max_examples=60)
@given(maps())
def test_trimap_is_its_definition(case: tuple) -> None:
    assert np.array_equal(counted(*case).trimap, direct_trimap(*case))


@settings(max_examples=100)
@given(maps())
def test_boundary_iou_is_that_of_the_authors_code(case: tuple) -> None:
    assert np.array_equal(counted(*case).boundary, direct_boundary(*case))


def test_boundary_iou_with_wider_bands() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 5, (20, 25)).repeat(9, 0).repeat(9, 1).astype(np.uint8)
    predicted = np.roll(truth, (2, 3), (0, 1))
    truth[random.random(truth.shape) < 0.001] = VOID
    assert boundaries.band_width(truth.shape) == 6
    assert np.array_equal(counted(predicted, truth, 5).boundary, direct_boundary(predicted, truth, 5))


@settings(max_examples=60)
@given(maps(), st.sampled_from([0, 1, 1.5, 2.5, 4.5, 30]))
def test_boundary_f_is_its_definition(case: tuple, tolerance: float) -> None:
    labels = case[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "TOLERANCE", tolerance / math.hypot(*labels.shape) * (1 + 1e-12))
        counts = counted(*case).contour
    assert np.array_equal(counts, direct_contour_counts(*case, tolerance * (1 + 1e-12)))


@pytest.mark.parametrize("shape", [(360, 480), (1024, 700), (1, 900), (700, 2)])
def test_images_of_any_size_are_counted_alike(shape: tuple[int, int]) -> None:
    """With all bands and tolerances, of regions as in photographs, some of them void."""
    random = np.random.default_rng(sum(shape))
    scores = random.random((12, shape[0] // 40 + 2, shape[1] // 40 + 2))
    smooth = ndimage.zoom(scores, (1, 40, 40), order=1)[:, : shape[0], : shape[1]]
    truth = smooth.argmax(axis=0).astype(np.uint8)
    predicted = np.roll(truth, (3, -2), (0, 1)) % 11
    noisy = random.random(shape) < 0.01
    predicted[noisy] = random.integers(0, 11, noisy.sum())
    counts = counted(predicted, np.where(truth == 11, VOID, truth), 11)
    assert counts.contour[1::2].sum() < counts.contour[::2].sum(), "some contours are far from all others"


def test_more_classes_than_bits_of_a_word() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 150, (30, 40)).astype(np.uint8)
    predicted = np.where(random.random(truth.shape) < 0.5, truth, np.roll(truth, 2, 1))
    counts = counted(predicted, truth, 150)
    assert np.array_equal(
        counts.contour, direct_contour_counts(predicted, truth, 150, 0.0075 * math.hypot(30, 40))
    )
    assert np.array_equal(counts.boundary, direct_boundary(predicted, truth, 150))


def test_a_prediction_that_is_right_but_in_void_is_perfect() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    predicted = truth.copy()
    truth[20:40, 10:50] = VOID
    predicted[20:40, 10:50] = random.integers(0, 3, (20, 40))
    scores = boundaries.scores(stacked([boundaries.counts(predicted, truth, 3)]), list("abc"))
    assert scores["boundary_iou"] == scores["boundary_f"] == 1
    assert set(scores["trimap_miou"].values()) == {1.0}


def test_scores_of_a_known_picture() -> None:
    """A vertical line between two classes, predicted one pixel to its right, far from the image's border."""
    truth = np.zeros((100, 100), np.uint8)
    truth[:, 50:] = 1
    predicted = np.roll(truth, 1, 1)
    predicted[:, 0] = 0
    scores = boundaries.scores(stacked([boundaries.counts(predicted, truth, 2)]), ["left", "right"])
    # Width 1: the columns 49 and 50; the left class is right in one of two, the right class in none of one.
    assert scores["trimap_miou"]["1"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["trimap_miou"]["2"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["boundary_f"] == 1, "the tolerance is 1.06 pixels"
    assert scores["boundary_f_per_class"] == {"left": 1, "right": 1}


def test_without_boundaries_there_is_no_score() -> None:
    void = np.full((5, 5), VOID, np.uint8)
    scores = boundaries.scores(stacked([boundaries.counts(np.zeros_like(void), void, 2)]), ["a", "b"])
    assert scores["boundary_iou"] is scores["boundary_f"] is scores["trimap_miou"]["4"] is None


def stacked(counts: list[BoundaryCounts]) -> BoundaryCounts:
    return BoundaryCounts(*(np.stack(arrays) for arrays in zip(*counts)))
