"""The table of all runs, and the packages that computed them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from common.provenance import Provenance
from common.report.sortable_tables import Column, SortableTable, TableRow, number, word
from common.tables.results import Result

WORDS = ("method", "dataset", "model", "trained on", "scored", "commit", "run")
NUMBERS = ("seed", "mIoU %", "training min")


def runs_table(results: Sequence[Result]) -> SortableTable:
    """Where and when every run was trained and scored."""
    titles = (*WORDS[:3], *NUMBERS, *WORDS[3:])
    table = SortableTable("All runs", [Column(title, words=title in WORDS) for title in titles])
    for result in results:
        run, metrics = result.run, result.metrics
        trained = metrics.trained if metrics else None  # none, if predictions were read
        provenance = metrics.provenance if metrics else None
        scored = word(f"{provenance.written[:16]}Z" if provenance else "")
        scored.note = result.error or ""
        cells = [
            word(run.method),
            word(run.dataset),
            word(run.model),
            number(run.seed, 0),
            number(100 * metrics.miou if metrics else math.nan, 2),
            number(trained.wall_seconds / 60 if trained else math.nan, 1),
            word(trained.provenance.device if trained else None),
            scored,
            word((provenance.commit or "")[:10] if provenance else ""),
            word(run.digest),
        ]
        table.rows.append(TableRow(cells, run.method, model=run.model))
    return table


def other_results_table(others: pd.DataFrame, title: str) -> SortableTable | None:
    """The results that are not of the configuration; None if there are none.

    Args:
        others: A line per result, as of `tables.others`.
        title: Of the table.
    """
    if not len(others):
        return None
    words = ("method", "dataset", "model", "recipes", "digest", "scored_on", "differs")
    numbers = {"seed": 0, "miou": 2, "boundary_iou": 2}
    titles = {"scored_on": "scored on", "miou": "mIoU %", "boundary_iou": "boundary IoU %"}
    order = (*words[:5], *numbers, *words[5:])
    table = SortableTable(title, [Column(titles.get(key, key), words=key in words) for key in order])
    for line in others.to_dict("records"):
        cells = [word(line[key]) if key in words else number(line[key], numbers[key]) for key in order]
        table.rows.append(TableRow(cells, line["method"], model=line["model"]))
    return table


def package_versions(results: Iterable[Result]) -> dict[str, str]:
    """The versions of every package that results were computed with."""
    versions_of: dict[str, set[str]] = {}
    for result in results:
        for provenance in _origins(result):
            for package, version in provenance.packages.items():
                versions_of.setdefault(package, set()).add(version)
    return {package: ", ".join(sorted(versions)) for package, versions in versions_of.items()}


def _origins(result: Result) -> Iterable[Provenance]:
    """How scores, cost and model of a run came to be, as far as they are there."""
    if result.metrics:
        yield result.metrics.provenance
    if result.cost:
        yield result.cost.provenance
    if result.metrics and result.metrics.trained:
        yield result.metrics.trained.provenance
