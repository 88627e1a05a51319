"""Numbers over seeds: what a row of a table says and how it compares with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); NaN where there are too few values."""
    mean = float(np.mean(values)) if len(values) else float("nan")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return mean, deviation


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """The differences to the baseline for the seeds that both have, in the order of the seeds.

    Runs of one seed share initial network, data order and augmentation, so the difference within a
    seed is less noisy than the difference of two means.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
