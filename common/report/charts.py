"""Charts of scores, costs and losses, one line or marker per method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from common.report.chart_style import DASHES, SETTINGS, WIDTH, Style, add_legend, legend_rows, new_chart

_APART = 5.0
"""Points of a printer from one marker to the next, at least."""

_MOST_APART = 0.15
"""The part of a panel that all its points beside each other take at most: none is far from its cost."""

_TICKS = (
    (1, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)),
    (1, (1, 1.5, 2, 3, 5, 7)),
    (1, (1, 2, 5)),
    (1, (1, 3)),
    (1, (1,)),
    (2, (1,)),
    (4, (1,)),
)
"""Labels of logarithmic axes, the most first: every so many powers of ten, and the digits they stand with."""


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
        hollow: Whether only its outline is drawn.
        doubtful: Whether the cost may be another one; it is drawn pale.
        tag: What stands beside its marker.
    """

    method: str
    cost: float
    score: float
    low: float = math.nan
    high: float = math.nan
    best: bool = False
    hollow: bool = False
    doubtful: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Curve:
    """A score of a method over a range, such as the widths of trimaps.

    Attributes:
        x: `[n]`.
        mean: `[n]`.
        low: The lower ends of intervals `[n]`, NaN where there are none.
        high: The upper ends `[n]`.
        kind: method, alternative (drawn hollow) or control (a dashed grey line).
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    kind: str = "method"


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
    points = side_by_side(axes, points)
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


def side_by_side(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """The points with those of nearly equal costs moved apart, so that none hides another; many come closer.

    Args:
        axes: With limits of costs.
        points: Of a panel.
    """
    if len(points) < 2:
        return list(points)
    low, high = axes.get_xlim()
    width = axes.bbox.width  # in points of a printer, as the charts have 72 dots per inch
    scale = width / math.log(high / low)
    order = np.argsort([point.cost for point in points], kind="stable")
    places = np.array([scale * math.log(points[index].cost / low) for index in order])
    steps = np.arange(len(points)) * min(_APART, _MOST_APART * width / len(points))
    places = isotonic_regression(places - steps).x + steps
    costs = dict(zip(order, low * np.exp(places / scale)))
    return [replace(point, cost=float(costs[index])) for index, point in enumerate(points)]


def draw_points(axes: Axes, points: Sequence[Point], style: Style) -> None:
    """Every method with its interval; an end beyond the axis is an arrow there."""
    _, top = axes.get_ylim()
    for point in points:
        colour, pale = style.colour(point.method), 0.45 if point.doubtful else 1.0
        axes.plot(
            point.cost, point.score, label=point.method, color=colour, alpha=pale, linestyle="none",
            marker=style.marker(point.method), markersize=6,
            markerfacecolor="none" if point.hollow else colour,
        )  # fmt: skip
        _draw_interval(axes, point, colour, 0.8 * pale)
        if point.tag:
            end = min(point.high, top) if math.isfinite(point.high) else point.score
            axes.annotate(
                point.tag, (point.cost, end), (0, 4), textcoords="offset points", ha="center", fontsize=7,
                color=colour, annotation_clip=False,
            )  # fmt: skip


def _draw_interval(axes: Axes, point: Point, colour: str, alpha: float) -> None:
    """The interval of a score; nothing if it has none."""
    if not (math.isfinite(point.low) and math.isfinite(point.high)):
        return
    bottom, top = axes.get_ylim()
    ends = max(point.low, bottom), min(point.high, top)
    axes.plot([point.cost] * 2, ends, color=colour, linewidth=1, alpha=alpha)
    below, above = point.low < bottom, point.high > top
    for end, marker in zip(ends, (CARETDOWNBASE if below else "_", CARETUPBASE if above else "_")):
        axes.plot(point.cost, end, color=colour, alpha=alpha, marker=marker, markersize=4, clip_on=False)


def fit_scores(axes: Axes, points: Sequence[Point]) -> None:
    """Limits the axis of scores to where the points lie, with room for their intervals."""
    ends = [end for point in points for end in (point.low, point.high)]
    axes.set_ylim(_limits([point.score for point in points], ends))


def _limits(scores: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """The limits of an axis in percent on which scores lie.

    Args:
        scores: What must be seen.
        ends: Of intervals, which may reach half as far again as several scores; NaN are none.
    """
    low, high = min(scores), max(scores)
    known = [end for end in ends if math.isfinite(end)]
    spread = max(high - low, 1.0)
    reach = 0.5 * spread if high > low else math.inf  # one score alone is not flattened
    bottom, top = max(min([low, *known]), low - reach), min(max([high, *known]), high + reach)
    margin = 0.15 * (spread if high > low else max(spread, top - bottom))
    bottom, top = bottom - margin, top + margin
    return max(bottom, -2), min(top, 102)


def logarithmic_costs(axes: Axes, points: Sequence[Point], labels: int = 6) -> None:
    """A logarithmic axis of costs that all points lie on, with so many labels at most."""
    costs = [point.cost for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.15, max(costs) * 1.15)
    low, high = axes.get_xlim()
    apart = [point.cost for point in side_by_side(axes, points)]
    axes.set_xlim(min(low, min(apart) / 1.08), max(high, max(apart) * 1.08))
    axes.set_xticks(*_logarithmic_ticks(*axes.get_xlim(), labels))
    axes.xaxis.set_minor_locator(NullLocator())


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
        _draw_curve(axes, method, curve, style)
        if np.isfinite(curve.low).all() and np.isfinite(curve.high).all():
            colour = style.colour(method)
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
        _draw_curve(axes, method, curve, style)
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("right in %")
    add_legend(figure, axes)
    return figure


def _draw_curve(axes: Axes, method: str, curve: Curve, style: Style) -> None:
    """The line of a method, an alternative or a control."""
    if curve.kind == "control":
        axes.plot(curve.x, curve.mean, label=method, color="#7f7f7f", linestyle="--", linewidth=1.2)
        return
    axes.plot(
        curve.x, curve.mean, label=method, color=style.colour(method), linestyle=style.dash(method),
        marker=style.marker(method), markersize=4, linewidth=1.2,
        markerfacecolor="none" if curve.kind == "alternative" else style.colour(method),
    )  # fmt: skip


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
        left=0.15, right=0.98, top=1 - 0.25 / figure.get_figheight(), bottom=0.5 / figure.get_figheight(),
        hspace=0.6 if len(by_method) % columns else 0.35, wspace=0.3,
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


def _logarithmic_ticks(low: float, high: float, labels: int) -> tuple[list[float], list[str]]:
    """Round numbers of an axis from `low` to `high`, as many as may have labels."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for every, digits in _TICKS:
        ticks = [digit * 10.0**power for power in range(first, last + 1, every) for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= labels:
            break
    if len(ticks) < 3:  # of a short axis, whatever the digits
        ticks = list(MaxNLocator(labels, steps=[1, 2, 5, 10]).tick_values(low, high))
        ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks, [f"{tick:g}" for tick in ticks]


def _usual(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a loss but for its first peak, which would press the rest flat."""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    margin = 0.05 * (high - low)
    return low - margin, high + margin
