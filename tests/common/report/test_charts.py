"""Where the axes of charts end, and what is drawn of a dataset."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from common.report import charts
from common.report.chart_style import Style
from common.report.charts import Point
from common.report.overview_chart import COSTS, SCORES, overview

NAN = math.nan


def test_axes_fit_the_points_and_cut_intervals() -> None:
    points = [Point("a", 10, 60, -50, 165, best=True), Point("b", 20, 64, 63, 65)]
    (axes,) = charts.pareto(points, Style(["a", "b"]), "ms", "mIoU in %").axes
    low, high = axes.get_ylim()
    assert 57 <= low < 60 and 65 < high <= 67
    ends = [line for line in axes.lines if line.get_label().startswith("_") and line.get_marker() != "None"]
    stops = {float(line.get_ydata()[0]) for line in ends if line.get_marker() == "_"}
    arrows = {float(line.get_ydata()[0]) for line in ends if line.get_marker() != "_"}
    assert stops == {63, 65} and arrows == {low, high}, "the interval of a goes on at both ends"


def test_scores_that_are_nearly_equal_are_not_drawn_apart() -> None:
    points = [Point("a", 10, 60.01), Point("b", 20, 60.02)]
    (axes,) = charts.pareto(points, Style(["a", "b"]), "ms", "mIoU in %").axes
    low, high = axes.get_ylim()
    assert high - low >= 0.3


def board(**columns: list[float | str]) -> pd.DataFrame:
    """Lines of three methods, two models and one alternative."""
    lines: dict[str, list[float | str]] = {
        "model": ["m", "m", "n"],
        "method": ["ce", "crf", "ce-tta"],
        "kind": ["method", "method", "alternative"],
        "latency_ms": [5, 20, 30],
        "training_minutes": [1, 1, 2],
        "multiply_adds": [1e9, 1e9, 3e9],
        "training_peak_memory": [NAN, NAN, NAN],
        "latency_doubt": ["", "", ""],
        "training_doubt": ["", "busy machine", ""],
        "uncounted": ["", "refinement", ""],
    }
    for score in SCORES:
        lines |= {f"{score.column}_{part}": [50, 60, 70] for part in ("mean", "low", "high")}
    return pd.DataFrame(lines | columns)


def test_the_picture_of_a_dataset() -> None:
    style = Style(["ce", "crf", "ce-tta"])
    figure = overview(board(), style)
    assert figure is not None
    assert len(figure.axes) == len(SCORES) * (len(COSTS) - 1), "no memory is known"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["ce", "crf", "ce-tta", "m", "n"], "methods by colours, models by markers"
    fronts = [[*axes.lines[0].get_xdata()] for axes in figure.axes[:3]]
    assert fronts == [[5, 20, 30], [2], [3]], "what is doubtful, or not counted, may beat ce"
    assert (
        overview(board(latency_ms=[NAN] * 3, training_minutes=[NAN] * 3, multiply_adds=[NAN] * 3), style)
        is None
    )


@pytest.mark.parametrize("column", ["miou_i_mean", "boundary_iou_mean"])
def test_scores_that_nobody_computed_have_no_row(column: str) -> None:
    figure = overview(board(**{column: [NAN] * 3}), Style(["ce", "crf", "ce-tta"]))
    assert figure is not None and len(figure.axes) == (len(SCORES) - 1) * (len(COSTS) - 1)
