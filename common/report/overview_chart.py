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

from common.report.chart_style import SETTINGS, Style, legend_columns
from common.report.charts import (
    Point,
    draw_front,
    draw_points,
    fit_scores,
    logarithmic_costs,
    side_by_side,
)
from common.tables.costs import pareto

PANEL = (2.9, 2.1)
"""Width and height of a panel in inches."""

_LEFT = 0.75
"""Inches left of the panels."""


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
    legends = [handles for handles in (_methods(board, style), _models(models)) if handles]
    width = PANEL[0] * len(costs) + 0.65
    columns = [
        legend_columns([str(handle.get_label()) for handle in handles], width - _LEFT) for handles in legends
    ]
    rows = [math.ceil(len(handles) / count) for handles, count in zip(legends, columns)]
    below = 0.2 * sum(rows) + 0.1
    height = PANEL[1] * len(scores) + 0.6 + below
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(len(scores), len(costs), sharex="col", sharey="row", squeeze=False)
        figure.subplots_adjust(
            left=_LEFT / width, right=1 - 0.1 / width, top=1 - 0.1 / height, bottom=(0.5 + below) / height,
            hspace=0.12, wspace=0.08,
        )  # fmt: skip
        for column, cost, points in zip(grid.T, costs, zip(*panels)):
            logarithmic_costs(column[0], max(points, key=len), labels=4)
            column[-1].set_xlabel(cost.label)
        for row, score, across in zip(grid, scores, panels):
            fit_scores(row[0], list(itertools.chain(*across)))
            row[0].set_ylabel(score.label)
            for axes, own in zip(row, across):
                apart = side_by_side(axes, own)
                draw_front(axes, apart)
                draw_points(axes, apart, style)
        for place, (handles, count) in enumerate(zip(legends, columns)):
            figure.legend(
                handles=handles, loc="lower left", ncols=count, handletextpad=0.4, columnspacing=1.2,
                borderaxespad=0, borderpad=0.2,
                bbox_to_anchor=(_LEFT / width, 0.2 * sum(rows[place + 1 :]) / height),
            )  # fmt: skip
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
            hollow=line["kind"] != "method",
            doubtful=doubted,
            tag=str(place) if (place := 1 + models.index(line["model"])) > 1 else "",
        )
        for line, value, best, doubted in zip(lines, spent, front, doubtful)
    ]


def _methods(board: pd.DataFrame, style: Style) -> list[Line2D]:
    """What the legend has of the methods: colour and marker."""
    handles = []
    for method, lines in board.groupby("method", sort=False):
        colour = style.colour(str(method))
        face = colour if (lines["kind"] == "method").any() else "none"
        handles.append(_handle(str(method), style.marker(str(method)), colour, face))
    return handles


def _models(models: Sequence[str]) -> list[Line2D]:
    """What the legend has of several models: the number beside their markers, which the first has none of."""
    if len(models) < 2:
        return []
    numbered = [f"{place}: {model}" for place, model in enumerate(models[1:], 2)]
    labels = [f"no number: {models[0]}", *numbered]
    return [_handle(label, "", "none", "none") for label in labels]


def _handle(label: str, marker: str, colour: str, face: str) -> Line2D:
    """A line of the legend."""
    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, markersize=6, label=label
    )
