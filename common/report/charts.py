"""Charts of scores, costs and losses, one line or marker per method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from common.report.chart_style import DASHES, SETTINGS, WIDTH, Style, add_legend, legend_rows, new_chart


@dataclass(frozen=True)
class Point:
    """A method in a chart of accuracy against cost.

    Attributes:
        method: Its name.
        cost: What it costs, positive.
        score: Its mean score.
        low: The lower end of the score's interval; NaN if there is none.
        high: Its upper end.
        best: Whether no other method beats it in both.
    """

    method: str
    cost: float
    score: float
    low: float = math.nan
    high: float = math.nan
    best: bool = False


@dataclass(frozen=True)
class Curve:
    """A score of a method over a range, such as the widths of trimaps.

    Attributes:
        x: `[n]`.
        mean: `[n]`.
        low: The lower ends of intervals `[n]`, NaN where there are none.
        high: The upper ends `[n]`.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def pareto(points: Sequence[Point], style: Style, cost: str, score: str) -> Figure:
    """Score against cost, with the line that no method is beyond.

    Args:
        points: One per method.
        style: Of the methods.
        cost: Label of the cost's axis.
        score: Label of the score's axis.
    """
    figure, axes = new_chart(legend_rows([point.method for point in points]))
    front = sorted((point for point in points if point.best), key=lambda point: point.cost)
    axes.step(
        [p.cost for p in front],
        [p.score for p in front],
        where="post",
        color="#7f7f7f",
        linewidth=1,
        zorder=1,
    )
    for point in points:
        error = None
        if math.isfinite(point.low) and math.isfinite(point.high):
            error = [[point.score - point.low], [point.high - point.score]]
        axes.errorbar(
            point.cost, point.score, yerr=error, label=point.method, color=style.colour(point.method),
            marker=style.marker(point.method), markersize=6, linestyle="none", capsize=2, elinewidth=1,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    _few_minor_labels(axes)
    _within_percent(axes)
    axes.set_xlabel(cost)
    axes.set_ylabel(score)
    add_legend(figure, axes)
    return figure


def curves(by_method: Mapping[str, Curve], style: Style, x: str, y: str) -> Figure:
    """One line per method, with its interval as a band.

    Args:
        by_method: The curve of every method.
        style: Of the methods.
        x: Label of the horizontal axis, which is logarithmic to base 2.
        y: Label of the vertical axis.
    """
    figure, axes = new_chart(legend_rows(by_method))
    for method, curve in by_method.items():
        colour = style.colour(method)
        axes.plot(
            curve.x, curve.mean, label=method, color=colour, linestyle=style.dash(method),
            marker=style.marker(method), markersize=4, linewidth=1.2,
        )  # fmt: skip
        if np.isfinite(curve.low).all() and np.isfinite(curve.high).all():
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({float(value) for curve in by_method.values() for value in curve.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _within_percent(axes)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    add_legend(figure, axes)
    return figure


def reliability(by_method: Mapping[str, Curve], style: Style) -> Figure:
    """Accuracy against confidence in percent, beside the diagonal of honest confidence."""
    figure, axes = new_chart(legend_rows(by_method))
    axes.plot([0, 100], [0, 100], color="#7f7f7f", linewidth=0.8)
    for method, curve in by_method.items():
        axes.plot(
            curve.x, curve.mean, label=method, color=style.colour(method), linestyle=style.dash(method),
            marker=style.marker(method), markersize=3.5, linewidth=1.1,
        )  # fmt: skip
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("right in %")
    add_legend(figure, axes)
    return figure


def training(by_method: Mapping[str, Mapping[int, NDArray[np.float64]]], style: Style) -> Figure:
    """The loss of every training, a small chart per method because losses do not compare.

    Args:
        by_method: Per method and seed `[n, 2]`: iteration and loss.
        style: Of the methods.
    """
    columns = min(2, len(by_method))
    rows = math.ceil(len(by_method) / columns)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.3))
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(by_method) :]:
        axes.set_axis_off()
    for axes, (method, seeds) in zip(grid.flat, by_method.items()):
        _draw_losses(axes, list(seeds.values()), style.colour(method))
        axes.set_title(method, fontsize=9, loc="left")
    for axes in grid.flat[max(0, len(by_method) - columns) : len(by_method)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("iteration")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    figure.subplots_adjust(
        left=0.11, right=0.98, top=1 - 0.25 / figure.get_figheight(), bottom=0.5 / figure.get_figheight(),
        hspace=0.6 if len(by_method) % columns else 0.35, wspace=0.28,
    )  # fmt: skip
    return figure


def _draw_losses(axes: Axes, seeds: Sequence[NDArray[np.float64]], colour: str) -> None:
    """The losses `[n, 2]` of one method, a dash per seed."""
    for lines, dash in zip(seeds, itertools.cycle(DASHES)):
        axes.plot(lines[:, 0], lines[:, 1], color=colour, linewidth=0.9, linestyle=dash)
    lowest, highest = _usual(np.concatenate([lines[:, 1] for lines in seeds]))
    if highest > lowest:
        axes.set_ylim(lowest, highest)
    if lowest < 0 < highest:
        axes.axhline(0, color="#7f7f7f", linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _within_percent(axes: Axes) -> None:
    """Cuts an axis where no score can be: an interval over two seeds may reach far beyond."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))


def _few_minor_labels(axes: Axes) -> None:
    """Labels between powers of ten only where few of these are in sight."""
    low, high = axes.get_xlim()
    if math.log10(high / low) >= 1.2:
        subs = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_minor_locator(MaxNLocator(5))
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_locator(NullLocator())
        axes.grid(True, which="minor")


def _usual(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a loss but for its first peak, which would press the rest flat."""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    margin = 0.05 * (high - low)
    return low - margin, high + margin
