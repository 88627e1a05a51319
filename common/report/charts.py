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
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE
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
        marker: What is drawn; empty is that of the method.
        hollow: Whether only its outline is drawn.
        doubtful: Whether the cost may be another one; it is drawn pale.
    """

    method: str
    cost: float
    score: float
    low: float = math.nan
    high: float = math.nan
    best: bool = False
    marker: str = ""
    hollow: bool = False
    doubtful: bool = False


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
    logarithmic_costs(axes, points)
    fit_scores(axes, points)
    draw_front(axes, points)
    draw_points(axes, points, style)
    axes.set_xlabel(cost)
    axes.set_ylabel(score)
    add_legend(figure, axes)
    return figure


def draw_front(axes: Axes, points: Sequence[Point]) -> None:
    """The line that no method is beyond."""
    front = sorted((point for point in points if point.best), key=lambda point: point.cost)
    axes.step(
        [p.cost for p in front],
        [p.score for p in front],
        where="post",
        color="#7f7f7f",
        linewidth=1,
        zorder=1,
    )


def draw_points(axes: Axes, points: Sequence[Point], style: Style) -> None:
    """Every method with its interval; an end beyond the axis is an arrow there."""
    bottom, top = axes.get_ylim()
    for point in points:
        colour, pale = style.colour(point.method), 0.45 if point.doubtful else 1.0
        axes.plot(
            point.cost, point.score, label=point.method, color=colour, alpha=pale, linestyle="none",
            marker=point.marker or style.marker(point.method), markersize=6,
            markerfacecolor="none" if point.hollow else colour,
        )  # fmt: skip
        if not (math.isfinite(point.low) and math.isfinite(point.high)):
            continue
        ends = max(point.low, bottom), min(point.high, top)
        axes.plot([point.cost] * 2, ends, color=colour, linewidth=1, alpha=0.8 * pale)
        below, above = point.low < bottom, point.high > top
        for end, marker in zip(ends, (CARETDOWNBASE if below else "_", CARETUPBASE if above else "_")):
            axes.plot(
                point.cost, end, color=colour, alpha=0.8 * pale, marker=marker, markersize=4, clip_on=False
            )


def fit_scores(axes: Axes, points: Sequence[Point]) -> None:
    """Limits the axis of scores to where the points lie, with room for their intervals."""
    ends = [end for point in points for end in (point.low, point.high)]
    axes.set_ylim(_limits([point.score for point in points], ends))


def _limits(scores: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """The limits of an axis in percent on which scores lie.

    Args:
        scores: What must be seen.
        ends: Of intervals, which may reach half as far again as the scores; NaN are none.
    """
    low, high = min(scores), max(scores)
    spread = max(high - low, 1.0)
    known = [end for end in ends if math.isfinite(end)]
    bottom = max(min([low, *known]), low - 0.5 * spread) - 0.15 * spread
    top = min(max([high, *known]), high + 0.5 * spread) + 0.15 * spread
    return max(bottom, -2), min(top, 102)


def logarithmic_costs(axes: Axes, points: Sequence[Point], labels: int = 5) -> None:
    """A logarithmic axis of costs that all points lie on, with about so many labels."""
    costs = [point.cost for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.15, max(costs) * 1.15)
    axes.xaxis.set_major_formatter("{x:g}")
    _few_minor_labels(axes, labels)


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
    drawn = by_method.values()
    means = np.concatenate([curve.mean for curve in drawn])
    ends = np.concatenate([end for curve in drawn for end in (curve.low, curve.high)])
    axes.set_ylim(_limits(means.tolist(), ends.tolist()))
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


def _few_minor_labels(axes: Axes, labels: int) -> None:
    """Labels between powers of ten only where few of these are in sight."""
    low, high = axes.get_xlim()
    if math.log10(high / low) >= 1.2:
        subs = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_minor_locator(MaxNLocator(labels))
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_locator(NullLocator())
        axes.grid(True, which="minor")


def _usual(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a loss but for its first peak, which would press the rest flat."""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    margin = 0.05 * (high - low)
    return low - margin, high + margin
