"""Calibration beside its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import methods
from common.kernels import cpu
from common.labels import VOID
from common.scoring import calibration
from common.scoring.counts import image_counts
from common.scoring.evidence import Evidence


def counted(probabilities: Tensor, labels: Tensor) -> tuple[NDArray, float]:
    """The counts of an image by compiled code, which are those of plain code."""
    compiled = image_counts(*_evidence(probabilities, labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "library", lambda _: None)  # as without a compiler
        plain = image_counts(*_evidence(probabilities, labels))
    assert np.array_equal(compiled.confusion, plain.confusion)
    assert np.array_equal(compiled.calibration, plain.calibration)
    assert compiled.nll == pytest.approx(plain.nll, rel=1e-12)
    return plain.calibration, plain.nll


def _evidence(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int, Evidence]:
    evidence = Evidence.of(probabilities, labels)
    return evidence.labels, labels, len(probabilities), evidence


def test_calibration_is_its_definition() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.3] * 4, (10, 12)).transpose(2, 0, 1)
    labels = random.integers(0, 4, (10, 12)).astype(np.uint8)
    labels[random.random(labels.shape) < 0.2] = VOID
    bins, nll = counted(torch.from_numpy(probabilities), torch.from_numpy(labels))
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


@pytest.mark.parametrize(
    ("name", "options"), [("bce", {}), ("rmi", {}), ("rmi", {"softmax": True, "weight": 0})]
)
def test_a_network_that_is_right_class_by_class_is_calibrated(name: str, options: dict) -> None:
    """Its sigmoids are the shares of pixels of each class; a softmax of the same logits is too sure."""
    generator = torch.Generator().manual_seed(0)
    shares = (1.55 * torch.randn(1, 11, 200, 200, generator=generator)).double().softmax(dim=1)
    labels = torch.multinomial(shares[0].flatten(1).T, 1, generator=generator).view(200, 200)
    logits = shares.logit()
    method = methods.load(name)(11, 1, **options)
    of_method, of_softmax = (
        calibration.scores(bins[None], np.array([nll]))
        for bins, nll in (
            counted(probabilities[0], labels.to(torch.uint8))
            for probabilities in (method.probabilities(logits), logits.softmax(dim=1))
        )
    )
    assert of_method["ece"] < 0.006 and of_softmax["ece"] == pytest.approx(0.092, abs=0.003)
    assert of_method["nll"] < of_softmax["nll"] - 0.03


def test_a_certain_error_does_not_cost_infinitely_much() -> None:
    probabilities = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    bins, nll = counted(probabilities, torch.ones(1, 1, dtype=torch.uint8))
    assert nll == pytest.approx(12 * math.log(10)) and bins[14].tolist() == [1, 0, 1]
