"""How much of small, medium and large objects is right."""

from __future__ import annotations

import numpy as np
import pytest

from common.kernels import cpu
from common.scoring import objects


def blocks(*sides: int) -> np.ndarray:
    """Labels 0 with squares of class 1 of these sides, apart from each other."""
    labels = np.zeros((max(sides) + 2, sum(sides) + 2 * len(sides)), np.uint8)
    left = 1
    for side in sides:
        labels[1 : 1 + side, left : left + side] = 1
        left += side + 2
    return labels


def test_sizes_are_those_of_coco() -> None:
    labels = blocks(31, 32, 95, 96)
    predicted = labels.copy()
    predicted[1, :35] = 0  # the uppermost row of the smallest square, one pixel of the next
    counts = objects.counts(predicted, labels, 2)
    assert counts[:, 1, 1].tolist() == [31**2, 32**2 + 95**2, 96**2], "pixels"
    missed = np.array([31, 1, 0])
    assert (counts[:, 1, 1] - counts[:, 0, 1]).tolist() == missed.tolist()
    assert counts[:, 1, 0].tolist() == [0, np.count_nonzero(labels == 0), 0], "the rest is one object"
    recall = objects.scores(counts[None])["recall_by_size"]
    assert recall["small"] == pytest.approx(30 / 31)
    assert recall["medium"] == pytest.approx((1 + 1 - 1 / (32**2 + 95**2)) / 2), "the mean of both classes"
    assert recall["large"] == 1


def test_corners_touch_and_void_divides() -> None:
    diagonal = np.eye(40, dtype=np.uint8)[:, ::-1].copy()
    counts = objects.counts(diagonal, diagonal, 2)
    assert counts[:, 1, 1].tolist() == [40, 0, 0]
    assert counts[:, 1, 0].tolist() == [0, 40 * 39, 0], "either side touches the other across the diagonal"
    wide = np.ones((20, 60), np.uint8)
    assert objects.counts(wide, wide, 2)[:, 1, 1].tolist() == [0, 1200, 0]
    wide[:, 30] = 255
    predicted = np.ones_like(wide)
    assert objects.counts(predicted, wide, 2)[:, 1, 1].tolist() == [1180, 0, 0]


def test_a_size_without_objects_has_no_score() -> None:
    labels = blocks(3)
    recall = objects.scores(objects.counts(labels, labels, 3)[None])["recall_by_size"]
    assert recall == {"small": 1, "medium": None, "large": None}
    assert objects.scores(None)["recall_by_size"] == {"small": None, "medium": None, "large": None}


@pytest.mark.parametrize("seed", range(6))
def test_compiled_counts_are_the_plain_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    shape, classes = [(1, 1), (1, 90), (70, 1), (61, 83), (64, 64), (200, 150)][seed], 1 + seed
    labels = random.integers(0, classes, shape, dtype=np.uint8)
    for _ in range(seed % 3):  # larger parts
        labels = np.kron(labels, np.ones((3, 3), np.uint8))[: shape[0], : shape[1]]
    labels = np.where(random.random(shape) < 0.05, 255, labels).astype(np.uint8)
    predicted = random.integers(0, classes, shape, dtype=np.uint8)
    compiled = objects.counts(predicted, labels, classes)
    monkeypatch.setattr(cpu, "library", lambda name: None)
    assert np.array_equal(compiled, objects.counts(predicted, labels, classes))
