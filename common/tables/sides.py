"""What is compared: the results of one method, or of any other set of runs with one run per seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.datasets.base import Dataset
from common.integrity import StoredFile
from common.runs.records import Metrics
from common.tables.blocks import Place, Placing, alone
from common.tables.intervals import mean_and_deviation
from common.tables.results import Row

METRICS = ("miou", "boundary_iou", "miou_i")
"""The scores that are compared: means of ratios of two numbers that are summed over images. The first two
have one ratio per class, an intersection over a union; the third has a single one, of scores to images."""


@dataclass(frozen=True)
class Side:
    """The scores of a set of runs, and the counts that they come from.

    Attributes:
        scores: For every one of `METRICS` the scores in 0–1 by seed; seeds that have none are left out.
        files: By seed the `per_image.npz`.
        stored: By seed what the record of the scores says of that file, where the scores come from it.
        placing: Which of their images belong together; by default none.
    """

    scores: Mapping[str, Mapping[int, float]]
    files: Mapping[int, Path]
    placing: Placing = alone
    stored: Mapping[int, StoredFile] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Iterable[tuple[int, Metrics, Path]], placing: Placing = alone) -> Side:
        """From the results of several runs.

        Args:
            runs: The seed, the scores that the counts of a run give, and the file of these counts.
            placing: Which of their images belong together.
        """
        scores: dict[str, dict[int, float]] = {metric: {} for metric in METRICS}
        files, stored = {}, {}
        for seed, metrics, path in runs:
            files[seed] = path
            if path.name in metrics.files:
                stored[seed] = metrics.files[path.name]
            for metric, by_seed in scores.items():
                score = getattr(metrics, metric)
                if score is not None:
                    by_seed[seed] = score
        return cls(scores, files, placing, stored)

    def mean(self, metric: str) -> float:
        """The mean over seeds, NaN without any."""
        return mean_and_deviation(list(self.scores[metric].values()))[0]


def side_of(row: Row) -> Side:
    """A row of the tables as comparisons see it."""
    runs = ((r.run.seed, r.metrics, r.run.per_image) for r in row.results if r.metrics)
    return Side.of(runs, placing_in(row.group.data.dataset))


def placing_in(dataset: Dataset) -> Placing:
    """Which images belong together, as a dataset says."""

    def placing(name: str) -> Place | None:
        split, _, rest = name.partition("/")
        return dataset.sequence(split, rest)

    return placing
