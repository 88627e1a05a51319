"""Calibration beside its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.labels import VOID
from common.scoring import calibration


def test_calibration_is_its_definition() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.3] * 4, (10, 12)).transpose(2, 0, 1)
    labels = random.integers(0, 4, (10, 12)).astype(np.uint8)
    labels[random.random(labels.shape) < 0.2] = VOID
    bins, nll = calibration.counts(torch.from_numpy(probabilities), torch.from_numpy(labels))
    scores = calibration.scores(bins[None], np.array([nll]))
    valid = labels != VOID
    confidence, right = probabilities.max(axis=0)[valid], (probabilities.argmax(axis=0) == labels)[valid]
    gap = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            assert scores["reliability"].pixels[low] == inside.sum()
            assert scores["reliability"].accuracy[low] == pytest.approx(right[inside].mean())
        else:
            assert scores["reliability"].confidence[low] is None
    true = np.take_along_axis(probabilities, np.where(valid, labels, 0)[None].astype(int), 0)[0][valid]
    assert scores["ece"] == pytest.approx(gap, abs=1e-6)
    assert scores["nll"] == pytest.approx(-np.log(np.maximum(true, 1e-12)).mean(), abs=1e-5)


def test_a_certain_error_does_not_cost_infinitely_much() -> None:
    probabilities = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    bins, nll = calibration.counts(probabilities, torch.ones(1, 1, dtype=torch.uint8))
    assert nll == pytest.approx(12 * math.log(10)) and bins[14].tolist() == [1, 0, 1]
