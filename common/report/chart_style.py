"""What all charts have in common: size, fonts, the look of methods, and the legend below."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.5
"""Of a chart in inches: a column of a paper, and readable on a phone."""

COLOURS = (
    "#2b7bba", "#d9541e", "#2b9348", "#9467bd", "#a8791a",
    "#d0438f", "#14868c", "#7f7f7f", "#9c5f45", "#6b8e23",
)  # fmt: skip
"""Of the methods: each has a contrast of 3:1 or more with white and with the report's dark page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")

HOLLOW = "Hollow: what else the cost buys."
PALE = "Pale: the time is not to be relied on, and what it may beat is on no line."
SIDE_BY_SIDE = "Nearly equal costs are drawn side by side, a little off their places."
"""What the marks of charts mean, for their captions."""

SETTINGS: dict[Any, Any] = {
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
"""Of Matplotlib."""


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


def new_chart(legend_rows: int) -> tuple[Figure, Axes]:
    """An empty chart with room for so many lines of a legend below it."""
    height = 3.3 + 0.18 * legend_rows
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.subplots()
    bottom = 0.5 + 0.18 * legend_rows
    figure.subplots_adjust(left=0.14, right=0.96, top=0.97, bottom=bottom / height)
    return figure, axes


def legend_columns(names: Sequence[str], width: float = WIDTH - 0.1) -> int:
    """How many columns a legend with these names has in so many inches."""
    return max(1, min(len(names), int(width / (0.5 + inches(names)))))


def legend_rows(names: Collection[str]) -> int:
    """How many lines a legend with these names has."""
    return math.ceil(len(names) / min(4, legend_columns([*names])))


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds the legend below a chart."""
    handles, labels = axes.get_legend_handles_labels()
    with matplotlib.rc_context(SETTINGS):
        legend = figure.legend(
            handles, labels, loc="lower center", ncols=min(4, legend_columns(labels)), handletextpad=0.4,
            columnspacing=1.0, borderaxespad=0.2,
        )  # fmt: skip
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)  # what is pale in the chart has a name in full colour


def inches(names: Sequence[str]) -> float:
    """The width of the longest of several names, about."""
    return 0.085 * max(map(len, names))
