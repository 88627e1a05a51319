"""What is compared: the results of one method, or of any other set of runs with one run per seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.runs.records import Metrics
from common.tables.intervals import mean_and_deviation
from common.tables.results import Row

METRICS = ("miou", "boundary_iou")
"""The scores that are compared: means over classes of an intersection over a union, summed over images."""


@dataclass(frozen=True)
class Side:
    """The scores of a set of runs, and the counts that they come from.

    Attributes:
        scores: For every one of `METRICS` the scores in 0–1 by seed; seeds that have none are left out.
        files: By seed the `per_image.npz`.
    """

    scores: Mapping[str, Mapping[int, float]]
    files: Mapping[int, Path]

    @classmethod
    def of(cls, runs: Iterable[tuple[int, Metrics, Path]]) -> Side:
        """From the seed, the scores and the file of counts of every run."""
        scores: dict[str, dict[int, float]] = {metric: {} for metric in METRICS}
        files = {}
        for seed, metrics, path in runs:
            files[seed] = path
            for metric, by_seed in scores.items():
                score = getattr(metrics, metric)
                if score is not None:
                    by_seed[seed] = score
        return cls(scores, files)

    def mean(self, metric: str) -> float:
        """The mean over seeds, NaN without any."""
        return mean_and_deviation(list(self.scores[metric].values()))[0]


def side_of(row: Row) -> Side:
    """A row of the tables as comparisons see it."""
    return Side.of((r.run.seed, r.metrics, r.run.per_image) for r in row.results if r.metrics)
