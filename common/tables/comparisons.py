"""Comparing runs: paired differences over seeds and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.tables import intervals
from common.tables.bootstrap import Bootstrap, no_images
from common.tables.frames import Line
from common.tables.sides import Side

COLUMNS = (
    "metric",
    "seeds",
    "images",
    "block",
    "independent_images",
    "difference",
    "difference_std",
    "images_low",
    "images_high",
    "p_images",
    "seeds_low",
    "seeds_high",
    "p_seeds",
    "low",
    "high",
    "p",
    "p_holm",
    "reading",
    "detectable",
    "note",
)
"""What `compare` says of each pair, in this order; scores are percent."""


def compare(metric: str, pairs: Sequence[tuple[Side, Side]], bootstrap: Bootstrap) -> pd.DataFrame:
    """Compares pairs of sides, which are one table: the p values are adjusted over it.

    Args:
        metric: One of `sides.METRICS`.
        pairs: Side and baseline of every comparison.
        bootstrap: Where the chance of the images is known from.

    Returns:
        A row per pair with `COLUMNS`; NaN is what cannot be said, and a detectable difference that cannot be.
    """
    differences = [_differences(metric, side, baseline, bootstrap) for side, baseline in pairs]
    table = pd.DataFrame([line for line, _ in differences], columns=list(COLUMNS))
    if differences:
        _add_two_level(table, np.array([variances for _, variances in differences]))
        possible = [_largest_difference(100 * baseline.mean(metric)) for _, baseline in pairs]
        table["detectable"] = table["detectable"].where(table["detectable"] <= possible)
    return table


def _largest_difference(baseline: float) -> float:
    """How far a score can be from that of the baseline, to either side; both are percent."""
    return max(baseline, 100 - baseline)


def _differences(
    metric: str, side: Side, baseline: Side, bootstrap: Bootstrap
) -> tuple[Line, tuple[float, float]]:
    """What seeds and images say of one pair, each for itself, and the variances over them; all in percent."""
    scores, others = side.scores[metric], baseline.scores[metric]
    seeds = sorted(scores.keys() & others.keys())
    differences = [100 * value for value in intervals.paired_differences(scores, others)]
    mean, deviation = intervals.mean_and_deviation(differences)
    chance = bootstrap.difference(metric, side, baseline, seeds) if seeds else no_images("no common seed")
    resampled = chance.level
    low, high = intervals.interval_over_seeds(differences)
    line = {
        "metric": metric,
        "seeds": len(seeds),
        "images": chance.images,
        "block": chance.block if chance.images else float("nan"),
        "independent_images": chance.independent,
        "difference": mean,
        "difference_std": deviation,
        "images_low": 100 * resampled.low,
        "images_high": 100 * resampled.high,
        "p_images": resampled.p,
        "seeds_low": low,
        "seeds_high": high,
        "p_seeds": intervals.paired_t(differences),
        "note": chance.note,
    }
    return line, (deviation**2, 1e4 * resampled.variance)


def _add_two_level(table: pd.DataFrame, variances: NDArray[np.float64]) -> None:
    """Adds to the table what seeds and images say together, from the variances over each, `[pairs, 2]`."""
    by_seeds, by_images = variances.T
    seeds, images = table["seeds"].to_numpy(), table["independent_images"].to_numpy()
    both = intervals.two_level(table["difference"].to_numpy(float), by_seeds, seeds, by_images, images)
    table["low"], table["high"], table["p"] = both
    table["p_holm"] = intervals.holm(list(both.p))
    known = np.count_nonzero(~np.isnan(both.p))
    table["detectable"] = intervals.detectable(by_seeds, seeds, by_images, images, known)
    table["reading"] = [
        intervals.reading(*line) for line in zip(table["difference"], table["p_holm"], table["seeds"])
    ]


def differences(
    metric: str, sides: Sequence[Side], other: Side, bootstrap: Bootstrap, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The differences of sides to another one in percent, and half of their two-level intervals.

    Args:
        metric: One of `sides.METRICS`.
        sides: What is compared.
        other: What they are compared with.
        bootstrap: Where the chance of the images is known from.
        level: The intervals have a confidence of 1 − level.

    Returns:
        `[sides]` each; NaN is half of an interval where nothing can be shown, as with a single seed.
    """
    compared = [_differences(metric, side, other, bootstrap) for side in sides]
    by_seeds, by_images = np.array([variances for _, variances in compared]).reshape(-1, 2).T
    seeds, images = (np.array([line[key] for line, _ in compared]) for key in ("seeds", "independent_images"))
    margins = intervals.margin(level, by_seeds, seeds, by_images, images)
    return np.array([line["difference"] for line, _ in compared]), margins


def ranks(metric: str, sides: Sequence[Side], bootstrap: Bootstrap) -> list[float]:
    """Ranks with ties: who is not shown to be worse than the best of a rank shares it.

    A rank ends at the first that is shown to be worse than its best; the next rank counts all before. The
    level is Bonferroni's for all pairs, so that it does not matter which pairs the order made interesting.

    Returns:
        The rank of each side, from 1; NaN where nothing can be shown, as with a single seed.
    """
    result = [float("nan")] * len(sides)
    known = [place for place, side in enumerate(sides) if len(side.scores[metric]) > 1]
    order = sorted(known, key=lambda place: -sides[place].mean(metric))
    level = (1 - intervals.CONFIDENCE) / max(1, len(order) * (len(order) - 1) // 2)
    best, rank = None, 1
    for position, place in enumerate(order):
        if best is not None:
            (worse,), (margin,) = differences(metric, [sides[place]], sides[best], bootstrap, level)
            if np.isnan(margin):
                continue
            if worse < -margin:
                best, rank = place, position + 1
        else:
            best = place
        result[place] = rank
    return result
