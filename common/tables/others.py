"""Results that lie beside those of the configuration, but are not of it: what they are, how they differ.

They are in no rank, interval or comparison, and each stands alone: what has another digest is never averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.runs.benchmark import Benchmark
from common.runs.configurations import made_by
from common.runs.outputs import TABLES
from common.runs.records import Metrics
from common.scoring.stored_scores import Known, in_folder, owned
from common.tables.cells import DASH, number, scored_on
from common.tables.differences import differences
from common.tables.frames import read_csv
from common.tables.results import Result

TITLE = "Other results here"

ABOUT = (
    "Results in this folder that are not of the configuration. They are in no rank, interval or comparison, "
    "and each stands alone; *differs* says what they have otherwise than the run of the configuration that "
    "is most like them."
)

COLUMNS = (
    "dataset",
    "model",
    "method",
    "recipes",
    "digest",
    "seed",
    "scored_on",
    "images",
    "miou",
    "boundary_iou",
)
"""The columns of the table, but for `differs`."""


@dataclass(frozen=True)
class Others:
    """The results that are not of the configuration.

    Attributes:
        results: The folders of results and their scores, by dataset, model, recipe, method, digest.
        unreadable: What is wrong with those that are left out, in sentences.
    """

    results: Sequence[tuple[Path, Metrics]]
    unreadable: Sequence[str]

    def table(self, benchmark: Benchmark) -> pd.DataFrame:
        """A line per result: `COLUMNS`, scores in percent, and in `differs` what it has otherwise."""
        lines = [[*_line(metrics), "; ".join(differences(metrics, benchmark))] for _, metrics in self.results]
        return pd.DataFrame(lines, columns=[*COLUMNS, "differs"])


def read_others(benchmark: Benchmark, known: Known | None = None) -> Others:
    """The other results with their scores, as their counts give them; what is damaged stays as it is.

    Args:
        benchmark: The runs that are no others.
        known: The scores that files of counts gave before, as of `RememberedScores`; more are added.
    """
    return _others(benchmark, partial(in_folder, known=known))


def list_others(benchmark: Benchmark) -> Others:
    """The other results as their records tell of them, whose counts are not read."""
    return _others(benchmark, owned)


def _others(benchmark: Benchmark, read: Callable[[Path], Metrics]) -> Others:
    results, unreadable = [], []
    for path in benchmark.others():
        try:
            results.append((path.parent, read(path.parent)))
        except UserError as error:
            unreadable.append(str(error))
    results.sort(key=lambda result: _order(result[1]))
    return Others(results, unreadable)


def _order(metrics: Metrics) -> tuple[Any, ...]:
    return metrics.dataset, metrics.model, _recipe(metrics), metrics.method, metrics.seed, metrics.digest


def _line(metrics: Metrics) -> list[Any]:
    """The values of `COLUMNS`."""
    names = [metrics.dataset, metrics.model, metrics.method, _recipe(metrics), metrics.digest, metrics.seed]
    boundary = None if metrics.boundary_iou is None else 100 * metrics.boundary_iou
    return [*names, scored_on(metrics.evaluation), metrics.images, 100 * metrics.miou, boundary]


def _recipe(metrics: Metrics) -> str:
    """By which recipes a result was made."""
    trained = f"training {metrics.trained.recipe}, " if metrics.trained else ""
    return f"{trained}scoring {metrics.recipe}"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it."""
    lines = []
    for line in table.to_dict("records"):
        names = {key: line[key] for key in COLUMNS[:6]}
        scores = {"mIoU %": number(line["miou"], 2), "boundary IoU %": number(line["boundary_iou"], 2)}
        lines.append({**names, "scored on": line["scored_on"], **scores, "differs": line["differs"] or DASH})
    return pd.DataFrame(lines)


def check_kept(benchmark: Benchmark, others: Others) -> None:
    """Refuses to replace tables that show results by ones that show none.

    Args:
        benchmark: The configuration, of which no run has a result.
        others: The results that lie here.

    Raises:
        UserError: The tables that are there have scores; the sentence says which configurations made them.
    """
    results = benchmark.outputs.results
    if not _has_scores(results / "leaderboard.csv"):
        return
    if not others.results:
        raise UserError(
            f"no run of this configuration has a result, and no other lies in {results / 'runs'}: the tables "
            f"in {results} stay as they are, all that is left of results; delete {results / TABLES[1]} if "
            "they are to be made anew"
        )
    raise UserError(
        f"no run of this configuration has a result, so the tables in {results} stay as they are; "
        f"{origin_sentence(benchmark, others)}"
    )


def other_notes(benchmark: Benchmark, results: Sequence[Result], others: Others) -> list[str]:
    """What a reader must know of results that are not of the configuration.

    Args:
        benchmark: The configuration.
        results: Of its runs.
        others: The results that are not of it.
    """
    notes = []
    if others.results and not any(result.metrics for result in results):
        sentence = origin_sentence(benchmark, others)
        notes.append(f"WARNING: no run of this configuration has a result; {sentence}.")
    if others.unreadable:
        count = len(others.unreadable) - 1
        more = f" and {count} more" if count else ""
        notes.append(f"WARNING: left out of the other results here: {others.unreadable[0]}{more}.")
    return notes


def origin_sentence(benchmark: Benchmark, others: Others) -> str:
    """How many other results lie here, and which configurations made them."""
    results, count = benchmark.outputs.results, len(others.results)
    made = made_by(results, {folder for folder, _ in others.results})
    rest = count - sum(made.values())
    lie = f"{count} other {'result lies' if count == 1 else 'results lie'} in {results / 'runs'}"
    if not made:
        return f"{lie}, which no configuration in {results / 'configs'} makes with the code of today"
    named = ", ".join(f"--configfile {path} ({number} of them)" for path, number in made.items())
    old = f"; {rest} are of none with the code of today" if rest else ""
    return f"{lie}: give a configuration that made some, {named}{old}"


def _has_scores(path: Path) -> bool:
    """Whether a leaderboard has a row with scores, controls aside."""
    try:
        table = read_csv(path)
        return bool(((table["seeds"] > 0) & ~table["control"].astype(bool)).any())
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        return False
