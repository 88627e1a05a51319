"""Charts of results: as PNG and PDF for papers, and as SVG that takes its colours from the report's page."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from common.files import replacing

WIDTH = 4.5
"""Of a chart in inches: a column of a paper, and readable on a phone."""

COLOURS = (
    "#2b7bba", "#d9541e", "#2b9348", "#9467bd", "#a8791a",
    "#d0438f", "#14868c", "#7f7f7f", "#9c5f45", "#6b8e23",
)  # fmt: skip
"""Of the methods: each has a contrast of 3:1 or more with white and with the report's dark page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")

_STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8f8f8f",
    "grid.linewidth": 0.5,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "structseg",
    "pdf.fonttype": 42,
    "path.simplify_threshold": 0.5,
}


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


class Style:
    """The colour, marker and dash of every method, the same in all charts."""

    def __init__(self, methods: Sequence[str]) -> None:
        self._place = {name: place for place, name in enumerate(methods)}

    def colour(self, method: str) -> str:
        """Its colour."""
        return COLOURS[self._place[method] % len(COLOURS)]

    def marker(self, method: str) -> str:
        """Its marker: with the colour, different for 70 methods."""
        return MARKERS[self._place[method] % len(MARKERS)]

    def dash(self, method: str) -> str:
        """Its dash."""
        return DASHES[self._place[method] // len(COLOURS) % len(DASHES)]


# Charts


def pareto(points: Sequence[Point], style: Style, cost: str, score: str) -> Figure:
    """Score against cost, with the line that no method is beyond.

    Args:
        points: One per method.
        style: Of the methods.
        cost: Label of the cost's axis.
        score: Label of the score's axis.
    """
    figure, axes = _chart(_legend_rows([point.method for point in points]))
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
    _legend(figure, axes)
    return figure


def curves(found: Mapping[str, Curve], style: Style, x: str, y: str) -> Figure:
    """One line per method, with its interval as a band.

    Args:
        found: The curve of every method.
        style: Of the methods.
        x: Label of the horizontal axis, which is logarithmic to base 2.
        y: Label of the vertical axis.
    """
    figure, axes = _chart(_legend_rows(found))
    for method, curve in found.items():
        colour = style.colour(method)
        axes.plot(
            curve.x, curve.mean, label=method, color=colour, linestyle=style.dash(method),
            marker=style.marker(method), markersize=4, linewidth=1.2,
        )  # fmt: skip
        if np.isfinite(curve.low).all() and np.isfinite(curve.high).all():
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({float(value) for curve in found.values() for value in curve.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _within_percent(axes)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _legend(figure, axes)
    return figure


def _within_percent(axes: Axes) -> None:
    """Cuts an axis where no score can be: an interval over two seeds may reach far beyond."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))


def reliability(found: Mapping[str, Curve], style: Style) -> Figure:
    """Accuracy against confidence in percent, beside the diagonal of honest confidence."""
    figure, axes = _chart(_legend_rows(found))
    axes.plot([0, 100], [0, 100], color="#7f7f7f", linewidth=0.8)
    for method, curve in found.items():
        axes.plot(
            curve.x, curve.mean, label=method, color=style.colour(method), linestyle=style.dash(method),
            marker=style.marker(method), markersize=3.5, linewidth=1.1,
        )  # fmt: skip
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("right in %")
    _legend(figure, axes)
    return figure


def training(found: Mapping[str, Mapping[int, NDArray[np.float64]]], style: Style) -> Figure:
    """The loss of every training, a small chart per method because losses do not compare.

    Args:
        found: Per method and seed `[n, 2]`: iteration and loss.
        style: Of the methods.
    """
    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 * rows + 0.3))
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes, (method, seeds) in itertools.zip_longest(grid.flat, found.items(), fillvalue=("", {})):
        if not method:
            axes.set_axis_off()
            continue
        for lines, dash in zip(seeds.values(), itertools.cycle(DASHES)):
            axes.plot(lines[:, 0], lines[:, 1], color=style.colour(method), linewidth=0.9, linestyle=dash)
        lowest, highest = _usual(np.concatenate([lines[:, 1] for lines in seeds.values()]))
        if highest > lowest:
            axes.set_ylim(lowest, highest)
        if lowest < 0 < highest:
            axes.axhline(0, color="#7f7f7f", linewidth=0.6)
        axes.set_title(method, fontsize=9, loc="left")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in grid.flat[max(0, len(found) - columns) : len(found)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("iteration")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    figure.subplots_adjust(
        left=0.11, right=0.98, top=1 - 0.25 / figure.get_figheight(), bottom=0.5 / figure.get_figheight(),
        hspace=0.6 if len(found) % columns else 0.35, wspace=0.28,
    )  # fmt: skip
    return figure


def heat_map(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """A table of percentages, `[rows, columns]`, as colours with their numbers; NaN is left white."""
    left, top = _inches(rows) + 0.1, _inches(columns) + 0.1
    width, height = 0.36 * len(columns) + left + 0.1, 0.24 * len(rows) + top + 0.3
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(
            (left / width, 0.3 / height, 0.36 * len(columns) / width, 0.24 * len(rows) / height)
        )
    axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            colour = "black" if value > 50 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(label)
    return figure


def confusions(found: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> Figure:
    """Confusion counts `[K, K]` of every method, as shares of the truth's rows."""
    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    margin = 0.25 + 0.05 * max(map(len, names))
    side = (WIDTH - margin) / columns
    height = (side + 0.25) * rows + margin
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, height))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_axis_off()
    for axes, (method, counts) in zip(grid.flat, found.items()):
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
        axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
        axes.set_title(method, fontsize=9)
        axes.tick_params(length=0, labelsize=6, labelbottom=True)
        axes.spines[:].set_visible(False)
        if len(names) <= 25:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
    for axes in list(grid.flat)[: max(0, len(found) - columns)]:
        axes.tick_params(labelbottom=False)
    figure.supylabel("truth", fontsize=8)
    figure.supxlabel("prediction", fontsize=8)
    figure.subplots_adjust(
        left=margin / WIDTH,
        right=0.99,
        top=1 - 0.25 / height,
        bottom=margin / height,
        wspace=0.06,
        hspace=0.12,
    )
    return figure


# Files


def save(figure: Figure, path: Path) -> str:
    """Writes a chart as `<path>.png` and `<path>.pdf` and returns it as SVG for the report.

    Args:
        figure: The chart.
        path: Without a suffix; its name begins all ids in the SVG.
    """
    with matplotlib.rc_context(_STYLE):
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with replacing(path.parent / f"{path.name}.{kind}", "wb") as file:
                figure.savefig(file, format=kind, dpi=200, metadata=metadata)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(buffer.getvalue(), path.name)


def _embeddable(svg: str, prefix: str) -> str:
    """An SVG that may stand in an HTML page: ids are its own, and black is the colour of the page's text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", prefix)
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    return re.sub(r"\n\s*", "\n", svg)


# Pieces


def _chart(legend_rows: int) -> tuple[Figure, Axes]:
    height = 3.3 + 0.18 * legend_rows
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.subplots()
    bottom = 0.5 + 0.18 * legend_rows
    figure.subplots_adjust(left=0.14, right=0.98, top=0.97, bottom=bottom / height)
    return figure, axes


def _legend_columns(names: Iterable[str]) -> int:
    return max(1, min(4, int((WIDTH - 0.1) / (0.5 + _inches(list(names))))))


def _legend_rows(names: Collection[str]) -> int:
    return math.ceil(len(names) / _legend_columns(names))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    with matplotlib.rc_context(_STYLE):
        figure.legend(
            handles, labels, loc="lower center", ncols=_legend_columns(labels), handletextpad=0.4,
            columnspacing=1.0, borderaxespad=0.2,
        )  # fmt: skip


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


def _inches(names: Sequence[str]) -> float:
    return 0.085 * max(map(len, names))
