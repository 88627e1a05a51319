"""What is worth its cost on a dataset: in sentences, and in the cells of a table of budgets."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from common.tables.budgets import BEST, COSTS, Cost
from common.tables.cells import DASH, doubted, mean, number, three_digits
from common.tables.frames import Line, lines_of

Methods = frozenset[str]
"""The methods that have a score with more than one model."""

MOST = 8
"""So many names stand in a row."""

ONE_SEED = "With one seed nothing is shown of what is worth its cost."


class Words(NamedTuple):
    """How a kind of cost is spoken of.

    Attributes:
        name: Of the cost.
        unit: Of its numbers.
        text: Makes a text of a number.
        heading: Of a column of budgets.
    """

    name: str
    unit: str
    text: Callable[[float], str]
    heading: str


_WORDS = {
    "latency_ms": Words("latency", "ms", partial(number, digits=1), "latency ms ≤"),
    "training_minutes": Words("time of training", "min", three_digits, "train min ≤"),
}


class Answer(NamedTuple):
    """What one kind of cost buys on a dataset.

    Attributes:
        sentences: In plain words.
        cells: A line per budget.
        about: What the cells are, in a phrase.
    """

    sentences: str
    cells: pd.DataFrame
    about: str


def answers(board: pd.DataFrame, budgets: pd.DataFrame) -> list[Answer]:
    """What every kind of cost that was measured buys.

    Args:
        board: The leaderboard of one dataset.
        budgets: Its table of budgets.
    """
    models = board[board["miou_mean"].notna()].groupby("method")["model"].nunique()
    several = frozenset(models.index[models > 1])
    result = []
    for cost in COSTS:
        own = budgets[budgets["budget_of"] == cost.column]
        if len(own):
            measured = _measured(board, own, cost)
            about = f"Best for no more than a {_WORDS[cost.column].name}, on {own['device'].iloc[0]}"
            sentences = _sentences(measured, own, cost, several) + _unmeasured(board, measured, several)
            result.append(Answer(sentences, _cells(own, cost, several), about))
    return result


def _measured(board: pd.DataFrame, budgets: pd.DataFrame, cost: Cost) -> pd.DataFrame:
    """The lines that are candidates of the budgets, by their cost."""
    there = board[(board["device"] == budgets["device"].iloc[0]) & board["miou_mean"].notna()]
    return there[there[cost.column] > 0].sort_values(cost.column, kind="stable")


def _sentences(measured: pd.DataFrame, budgets: pd.DataFrame, cost: Cost, several: Methods) -> str:
    """What is best for the least, what is worth its cost, and of what that is not shown."""
    words = _WORDS[cost.column]
    groups = [lines_of(group) for _, group in budgets.groupby("budget")]
    least = groups[0][0]["cost"]
    first = [line for line in groups[0] if line["cost"] == least]
    spent = _costs(least, first[0]["doubt"], words)
    parts = [f"The least {words.name}, {spent}, buys {_miou(first, several)}."]
    lines = [line for line in lines_of(measured) if line[cost.column] > least]
    if not (measured["seeds"] > 1).any():
        return " ".join([*parts, ONE_SEED])
    kinds: dict[str, list[str]] = {"worth": [], "open": [], "worse": []}
    starts = [group[0]["budget"] for group in groups]
    for line in lines:
        group = groups[bisect.bisect_right(starts, line[cost.column]) - 1]
        spent = _costs(line[cost.column], line[cost.doubt], words)
        kinds[_kind(line, group, line[cost.column])].append(f"{_name(line, several)} ({spent})")
    if lines:
        parts.append(_worth(kinds["worth"], words))
    if kinds["open"]:
        parts.append(f"Not shown to be better than all that costs no more: {_listed(kinds['open'])}.")
    if kinds["worse"]:
        parts.append(f"Shown to be worse than something that costs no more: {_listed(kinds['worse'])}.")
    return " ".join(parts)


def _unmeasured(board: pd.DataFrame, measured: pd.DataFrame, several: Methods) -> str:
    """Which rows with a score are left out, as their cost is not known."""
    out = board[~board["control"].astype(bool) & board["miou_mean"].notna()].drop(measured.index)
    names = [_name(line, several) for line in lines_of(out)]
    return f" Not measured there, so not compared: {_listed(names)}." if names else ""


def _worth(names: Sequence[str], words: Words) -> str:
    """What is worth its cost."""
    if not names:
        return f"Nothing is shown to be worth a longer {words.name}."
    shown = f"Worth a longer {words.name}, being shown to be better than all that costs no more"
    return f"{shown}: {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    """Names with commas, the first ones of many."""
    rest = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
    return ", ".join([*names[:MOST], *rest])


def _kind(line: Line, group: Sequence[Line], cost: float) -> str:
    """What a budget says of a line that costs as much, given the lines of the best of then."""
    members = [_key(member) for member in group if member["holds_from"] <= cost]
    if _key(line) not in members:
        return "worse"
    return "worth" if members == [_key(line)] else "open"


def _miou(group: Sequence[Line], several: Methods) -> str:
    """The best of a budget with its score, and what shares that."""
    best = next(line for line in group if line["place"] == BEST)
    others = [_name(line, several) for line in group if line["place"] != BEST]
    text = f"{_name(best, several)}, with an mIoU of {best['miou_mean']:.2f} %"
    return f"{text} ({_listed(others)} not shown to be worse)" if others else text


def _costs(cost: float, doubt: object, words: Words) -> str:
    """A cost with its unit."""
    return f"{doubted(words.text(cost), doubt)} {words.unit}"


def _name(line: Line, several: Methods) -> str:
    """A row as these tables call it: by its method, and by its model if several have one of that."""
    method = str(line["method"])
    return f"{method} of {line['model']}" if method in several else method


def _cells(budgets: pd.DataFrame, cost: Cost, several: Methods) -> pd.DataFrame:
    """A line per budget, with what costs no more."""
    words = _WORDS[cost.column]
    lines = []
    for budget, group in budgets.groupby("budget"):
        best, *sharing = [line for line in lines_of(group) if line["cost"] <= budget]
        others = [_shares(line, several) for line in sharing[:MOST]]
        if len(sharing) > MOST:
            others.append(f"{len(sharing) - MOST} more (budgets.csv)")
        lines.append(
            {
                words.heading: doubted(words.text(budget), best["doubt"]),
                "best": _name(best, several),
                "mIoU %": mean(best, "miou"),
                "not shown to be worse (Δ)": "; ".join(others) or DASH,
            }
        )
    return pd.DataFrame(lines)


def _key(line: Line) -> tuple[Any, Any]:
    """Which row of a dataset a line is of."""
    return line.get("model"), line.get("method")


def _shares(line: Line, several: Methods) -> str:
    """What shares a budget, with its difference to the best."""
    known = not math.isnan(line["low"])
    interval = f" [{line['low']:+.2f}, {line['high']:+.2f}]" if known else ""
    return f"{_name(line, several)} {line['difference']:+.2f}{interval}"
