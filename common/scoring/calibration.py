"""How well the probabilities of a model say how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from common.labels import VOID
from common.runs.records import Reliability

if TYPE_CHECKING:
    from torch import Tensor

    from common.scoring.evidence import Evidence

BINS = 15
"""Bins of confidence, of equal width."""

SMALLEST_PROBABILITY = 1e-12
"""Smaller probabilities count as this in the likelihood, so that a single pixel does not decide."""


class CalibrationScores(TypedDict):
    """How honest a split's probabilities are; the fields of `runs.records.Metrics` of these names.

    Attributes:
        ece: In 0..1.
        nll: In nats per pixel.
        reliability: None in the place of a bin that is empty.
    """

    ece: float
    nll: float
    reliability: Reliability


def counts(evidence: Evidence, labels: Tensor) -> tuple[NDArray[np.float64], float]:
    """What the calibration of one image is computed from; void is left out.

    Args:
        evidence: What the probabilities say, on the CPU.
        labels: Integers `[H, W]` in 0..K−1, or 255 for void, on the CPU.

    Returns:
        `[BINS, 3]`: pixels, right ones and the sum of confidence where the most probable class has a
        probability in (i/BINS, (i+1)/BINS]; and the sum of −log p(truth) over pixels.
    """
    valid = labels != VOID
    confidence = evidence.confidence[valid]
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    columns = (confidence.new_ones(confidence.shape), (evidence.labels == labels)[valid], confidence)
    sums = [bins.bincount(weights=column.double(), minlength=BINS).numpy() for column in columns]
    likelihood = evidence.likelihood[valid].clamp(min=SMALLEST_PROBABILITY)
    return np.stack(sums, axis=1), float(-likelihood.double().log().sum())


def scores(bins: NDArray[np.float64], nll: NDArray[np.float64]) -> CalibrationScores:
    """Expected calibration error (Guo et al. 2017) and negative log-likelihood of a split.

    Args:
        bins: `[N, BINS, 3]`, of each image.
        nll: `[N]`, of each image.
    """
    pixels, right, confidence = bins.sum(axis=0).T
    filled = pixels > 0
    accuracy, mean = (
        np.divide(x, pixels, out=np.full(BINS, np.nan), where=filled) for x in (right, confidence)
    )
    gaps = np.abs(right - confidence).sum()
    return {
        "ece": float(gaps / pixels.sum()),
        "nll": float(nll.sum() / pixels.sum()),
        "reliability": Reliability(
            [int(x) for x in pixels],
            [float(x) if full else None for x, full in zip(mean, filled)],
            [float(x) if full else None for x, full in zip(accuracy, filled)],
        ),
    }
