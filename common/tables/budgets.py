"""What is best at every budget of latency and of training time, over all models and methods of a dataset.

Others share a budget unless they are shown to be worse than its best, at Bonferroni's level for
comparisons of one row with all others of the dataset: α/(n − 1). So the rows of a budget hold the truly best
one of it with a confidence of 1 − α; and that a row is alone at the budget that is its cost, and thus shown
to be better than each that costs no more, is wrong of any of the n rows with a probability of at most α
(n − 1 intersection–union tests, Berger, Technometrics 24, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from common.tables import comparisons, intervals
from common.tables.bootstrap import Bootstrap
from common.tables.frames import Line, lines_of
from common.tables.results import Row
from common.tables.sides import Side, side_of

COLUMNS = (
    "dataset",
    "model",
    "method",
    "kind",
    "budget_of",
    "budget",
    "place",
    "holds_from",
    "cost",
    "doubt",
    "miou_mean",
    "miou_low",
    "miou_high",
    "seeds",
    "difference",
    "low",
    "high",
    "device",
)
"""What the table says of every method that is best at a budget or shares that."""

BEST, SHARES = "best", "shares it"
"""The places: the highest score, and scores that are not shown to be worse."""


class Cost(NamedTuple):
    """A column of the leaderboard that is a budget, and that which says whether it is doubtful."""

    column: str
    doubt: str


COSTS = (Cost("latency_ms", "latency_doubt"), Cost("training_minutes", "training_doubt"))
"""The budgets."""


@dataclass(frozen=True)
class _Candidate:
    """A line of the leaderboard whose score and cost are known."""

    line: Line
    side: Side
    cost: float


def budget_table(board: pd.DataFrame, rows: Sequence[Row], bootstrap: Bootstrap) -> pd.DataFrame:
    """For every budget, what is best of what costs no more, and what is not shown to be worse.

    A budget of the table is one from which on another row is the best, up to the next budget. What costs more
    than the best may share that from a later one on, `holds_from`.

    Args:
        board: The leaderboard.
        rows: Its methods.
        bootstrap: Where the chance of the images is known from.

    Returns:
        A line with `COLUMNS` per budget and row, the best first, the others by their cost. Differences are to
        the best.
    """
    sides = {row.key: side_of(row) for row in rows}
    lines: list[Line] = []
    for _, own in board[~board["control"].astype(bool)].groupby("dataset", sort=False):
        device = device_of_dataset(own)
        for cost in COSTS:
            there = own[(own["device"] == device) & own["miou_mean"].notna() & (own[cost.column] > 0)]
            candidates = [
                _Candidate(line, sides[line["dataset"], line["model"], line["method"]], line[cost.column])
                for line in lines_of(there)
            ]
            lines += _of_dataset(candidates, cost, bootstrap)
    return pd.DataFrame(lines, columns=[*COLUMNS])


def device_of_dataset(board: pd.DataFrame) -> str:
    """The device on which most methods of a dataset were measured; empty if none was."""
    devices = board.loc[board["device"].fillna("") != "", "device"].value_counts()
    return str(devices.index[0]) if len(devices) else ""


def _of_dataset(candidates: Sequence[_Candidate], cost: Cost, bootstrap: Bootstrap) -> Iterator[Line]:
    """The lines of one dataset and kind of budget."""
    number = sum(candidate.line["seeds"] > 1 for candidate in candidates)
    level = (1 - intervals.CONFIDENCE) / max(1, number - 1)
    order = sorted(candidates, key=lambda candidate: (candidate.cost, -candidate.line["miou_mean"]))
    bests: list[_Candidate] = []
    for candidate in order:
        if not bests or candidate.line["miou_mean"] > bests[-1].line["miou_mean"]:
            bests.append(candidate)
    ends = [*(best.cost for best in bests[1:]), math.inf]
    for best, end in zip(bests, ends):
        others = [candidate for candidate in order if candidate is not best and candidate.cost < end]
        sides = [candidate.side for candidate in others]
        yield _line(best, cost, best.cost, BEST, math.nan, math.nan)
        compared = zip(*comparisons.differences("miou", sides, best.side, bootstrap, level))
        for candidate, (difference, margin) in zip(others, compared):
            if not difference < -margin:  # or there is no interval, as with a single seed
                yield _line(candidate, cost, best.cost, SHARES, float(difference), float(margin))


def _line(
    candidate: _Candidate, cost: Cost, budget: float, place: str, difference: float, margin: float
) -> Line:
    """A line of the table."""
    copied = ("dataset", "model", "method", "kind", "miou_mean", "miou_low", "miou_high", "seeds", "device")
    return {
        **{key: candidate.line[key] for key in copied},
        "budget_of": cost.column,
        "budget": budget,
        "place": place,
        "holds_from": max(budget, candidate.cost),
        "cost": candidate.cost,
        "doubt": candidate.line[cost.doubt],
        "difference": difference,
        "low": difference - margin,
        "high": difference + margin,
    }
