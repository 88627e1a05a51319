"""How well models did on `val` while they were trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import UserError
from common.report.chart_style import HOLLOW, Style, add_legend, legend_rows, new_chart
from common.runs.jobs import TrainedRun, Training
from common.runs.records import read_validations
from common.tables.results import Row

Curves = dict[str, dict[int, NDArray[np.float64]]]
"""Iteration and mIoU in percent `[n, 2]` of every training, by method and seed."""


class ValidationChart(NamedTuple):
    """A chart of `val` scores.

    Attributes:
        figure: The chart.
        caption: What it shows.
        alt: The same in words, with the last values.
    """

    figure: Figure
    caption: str
    alt: str


def validation_chart(rows: Sequence[Row], style: Style) -> ValidationChart | None:
    """The mIoU of every training on the images that were scored meanwhile; None if none were.

    Args:
        rows: The methods of one dataset and model.
        style: Of the methods.
    """
    curves: Curves = {}
    images: set[int] = set()
    for training in _trainings(rows):
        try:
            lines = read_validations(training.log)
        except UserError:
            continue
        if lines:
            values = [(line.iteration, 100 * line.miou) for line in lines]
            curves.setdefault(training.method, {})[training.seed] = np.array(values, float)
            images.update(line.images for line in lines)
    if not curves:
        return None
    last = {m: np.mean([lines[-1, 1] for lines in seeds.values()]) for m, seeds in curves.items()}
    hollow = {row.method for row in rows if row.kind == "alternative"} & curves.keys()
    return ValidationChart(
        _draw(curves, style, hollow),
        f"mIoU on val ({' or '.join(map(str, sorted(images)))} images) during training, a line per seed. It "
        f"chooses nothing: the last model is the one that is scored. {HOLLOW if hollow else ''}".strip(),
        "mIoU on val at the end of training: " + "; ".join(f"{m} {score:.1f} %" for m, score in last.items()),
    )


def _trainings(rows: Iterable[Row]) -> Iterable[Training]:
    """The trainings of the methods that train models of their own."""
    runs = [result.run for row in rows for result in row.results]
    return [run.training for run in runs if isinstance(run, TrainedRun) and run.training.method == run.method]


def _draw(
    curves: Mapping[str, Mapping[int, NDArray[np.float64]]], style: Style, hollow: Collection[str]
) -> Figure:
    """One line per training, in the colour of its method; markers of some are hollow."""
    figure, axes = new_chart(legend_rows(curves))
    for method, seeds in curves.items():
        for place, lines in enumerate(seeds.values()):
            axes.plot(
                lines[:, 0], lines[:, 1], label=None if place else method, color=style.colour(method),
                linestyle=style.dash(method), marker=style.marker(method), markersize=3, linewidth=0.9,
                markerfacecolor="none" if method in hollow else style.colour(method),
            )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("mIoU on val in %")
    add_legend(figure, axes)
    return figure
