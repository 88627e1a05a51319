"""Charts that are tables of colours: classes by methods, and confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.images.legend import PLAIN_TEXT, shortened
from common.report.chart_style import SETTINGS, WIDTH, inches

NAMED = SETTINGS | PLAIN_TEXT | {"axes.grid": False}
"""Of Matplotlib, while anything is made that has names in it: texts keep what was set then."""


def heat_map(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """A table of percentages, `[rows, columns]`, as colours with their numbers; NaN is left white."""
    rows, columns = shortened(rows), shortened(columns)
    left, top = inches(rows) + 0.1, inches(columns) + 0.1
    width, height = 0.36 * len(columns) + left + 0.1, 0.24 * len(rows) + top + 0.3
    with matplotlib.rc_context(NAMED):
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


def confusions(by_method: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> Figure:
    """Confusion counts `[K, K]` of every method, as shares of the truth's rows."""
    names = shortened(names)
    columns = min(2, len(by_method))
    rows = math.ceil(len(by_method) / columns)
    margin = 0.38 + 0.05 * max(map(len, names))
    side = (WIDTH - margin) / columns
    height = (side + 0.25) * rows + margin
    with matplotlib.rc_context(NAMED):
        figure = Figure(figsize=(WIDTH, height))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in list(grid.flat)[len(by_method) :]:
            axes.set_axis_off()
        for axes, (method, counts) in zip(grid.flat, by_method.items()):
            _draw_confusion(axes, counts, method, names)
    for axes in list(grid.flat)[: max(0, len(by_method) - columns)]:
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


def _draw_confusion(axes: Axes, counts: NDArray[np.int64], method: str, names: Sequence[str]) -> None:
    """Draws the confusion counts `[K, K]` of one method."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set_title(shortened([method])[0], fontsize=9)
    axes.tick_params(length=0, labelsize=6, labelbottom=True)
    axes.spines[:].set_visible(False)
    if len(names) <= 25:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
