"""The picture of a dataset: kinds of accuracy against kinds of cost, of all models and methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.report.chart_style import MARKERS, SETTINGS, Style
from common.report.charts import Point, draw_front, draw_points, fit_scores, logarithmic_costs
from common.tables.costs import pareto

PANEL = (2.9, 2.1)
"""Width and height of a panel in inches."""

LEGEND_COLUMNS = 5


class Score(NamedTuple):
    """A kind of accuracy: its column of the leaderboard without `_mean`, and its label."""

    column: str
    label: str


class Spent(NamedTuple):
    """A kind of cost.

    Attributes:
        column: Of the leaderboard.
        scale: What a value there is multiplied by.
        label: Of the axis.
        doubt: The column that says why a value is not to be relied on, or is not all; empty if nothing does.
    """

    column: str
    scale: float
    label: str
    doubt: str = ""


SCORES = (
    Score("miou", "mIoU in %"),
    Score("boundary_iou", "boundary IoU in %"),
    Score("miou_i", "mIoU-I in %"),
)
COSTS = (
    Spent("latency_ms", 1, "latency of one image in ms", "latency_doubt"),
    Spent("training_minutes", 1, "training in minutes", "training_doubt"),
    Spent("multiply_adds", 1e-9, "multiply-adds of one image in billions", "uncounted"),
    Spent("training_peak_memory", 1e-9, "memory of training in GB"),
)


def overview(board: pd.DataFrame, style: Style) -> Figure | None:
    """Draws the picture; None if no cost is known.

    Args:
        board: The lines of the methods of one dataset, measured on one device.
        style: Of the methods.
    """
    scores = [score for score in SCORES if board[f"{score.column}_mean"].notna().any()]
    costs = [cost for cost in COSTS if (board[cost.column] > 0).any()]
    if not scores or not costs:
        return None
    models = list(dict.fromkeys(board["model"]))
    panels = [[_points(board, score, cost, models) for cost in costs] for score in scores]
    handles = _handles(board, models, style)
    below = 0.22 * math.ceil(len(handles) / LEGEND_COLUMNS) + 0.15
    width, height = PANEL[0] * len(costs) + 0.65, PANEL[1] * len(scores) + 0.6 + below
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(len(scores), len(costs), sharex="col", sharey="row", squeeze=False)
        for column, cost, points in zip(grid.T, costs, zip(*panels)):
            logarithmic_costs(column[0], list(itertools.chain(*points)), labels=3)
            column[-1].set_xlabel(cost.label)
        for row, score, across in zip(grid, scores, panels):
            fit_scores(row[0], list(itertools.chain(*across)))
            row[0].set_ylabel(score.label)
            for axes, own in zip(row, across):
                draw_front(axes, own)
                draw_points(axes, own, style)
        figure.subplots_adjust(
            left=0.75 / width, right=1 - 0.1 / width, top=1 - 0.1 / height, bottom=(0.5 + below) / height,
            hspace=0.12, wspace=0.08,
        )  # fmt: skip
        figure.legend(
            handles=handles, loc="lower center", ncols=LEGEND_COLUMNS, handletextpad=0.4, columnspacing=1.2
        )
    return figure


def _points(board: pd.DataFrame, score: Score, cost: Spent, models: Sequence[str]) -> list[Point]:
    """The points of a panel: one kind of accuracy against one kind of cost, as far as both are known."""
    lines = board[board[f"{score.column}_mean"].notna() & (board[cost.column] > 0)].to_dict("records")
    doubtful = [bool(cost.doubt) and isinstance(x := line[cost.doubt], str) and x != "" for line in lines]
    spent = [cost.scale * line[cost.column] for line in lines]
    front = pareto([line[f"{score.column}_mean"] for line in lines], spent, doubtful)
    return [
        Point(
            line["method"],
            value,
            line[f"{score.column}_mean"],
            line[f"{score.column}_low"],
            line[f"{score.column}_high"],
            best=best is True,
            marker=MARKERS[models.index(line["model"]) % len(MARKERS)] if len(models) > 1 else "",
            hollow=line["kind"] != "method",
            doubtful=doubted,
        )
        for line, value, best, doubted in zip(lines, spent, front, doubtful)
    ]


def _handles(board: pd.DataFrame, models: Sequence[str], style: Style) -> list[Line2D]:
    """What the legend shows: a colour for every method, and a marker for every model if there are several."""
    handles = []
    for method, lines in board.groupby("method", sort=False):
        colour = style.colour(str(method))
        face = colour if (lines["kind"] == "method").any() else "none"
        marker = style.marker(str(method)) if len(models) == 1 else "o"
        handles.append(_handle(str(method), marker, colour, face))
    if len(models) > 1:
        markers = [MARKERS[place % len(MARKERS)] for place in range(len(models))]
        handles += [_handle(model, marker, "#7f7f7f", "#7f7f7f") for model, marker in zip(models, markers)]
    return handles


def _handle(label: str, marker: str, colour: str, face: str) -> Line2D:
    """A line of the legend."""
    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, markersize=6, label=label
    )
