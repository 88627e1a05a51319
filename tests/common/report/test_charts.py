"""Where the axes of charts end, and what is drawn of a dataset."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from common.report import charts
from common.report.chart_style import Style
from common.report.charts import Curve, Point
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


def test_one_score_is_seen_with_its_whole_interval() -> None:
    (axes,) = charts.pareto([Point("a", 10, 40, 36, 44)], Style(["a"]), "ms", "mIoU in %").axes
    low, high = axes.get_ylim()
    assert 33 < low < 36 and 44 < high < 47


def test_equal_costs_stand_side_by_side_and_in_sight() -> None:
    points = [Point(name, 3.0, 60 + place) for place, name in enumerate("abcdef")] + [Point("g", 20, 70)]
    (axes,) = charts.pareto(points, Style("abcdefg"), "ms", "mIoU in %").axes
    low, high = axes.get_xlim()
    costs = [float(line.get_xdata()[0]) for line in axes.lines if not line.get_label().startswith("_")]
    assert low < min(costs) and costs[6] == pytest.approx(20) and costs[6] < high
    assert math.prod(costs[:6]) ** (1 / 6) == pytest.approx(3, rel=0.01), "around the cost that they share"
    steps = [after / before for before, after in itertools.pairwise(costs[:6])]
    assert min(steps) > 1.01 and max(steps) == pytest.approx(min(steps))


@pytest.mark.parametrize("costs", [(60, 630), (1.6, 6.9), (0.36, 0.44), (3, 21), (1, 1e7), (130, 130.001)])
def test_axes_of_costs_have_some_labels_and_not_many(costs: tuple[float, float]) -> None:
    points = [Point("a", costs[0], 60), Point("b", costs[1], 61)]
    (axes,) = charts.pareto(points, Style(["a", "b"]), "ms", "mIoU in %").axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 3 <= len(ticks) <= 6
    assert [f"{tick:g}" for tick in ticks] == [label.get_text() for label in axes.get_xticklabels()]


def test_doubtful_costs_are_pale_and_their_names_are_not() -> None:
    points = [Point("a", 10, 60, 59, 61, doubtful=True), Point("b", 20, 64, 63, 65)]
    figure = charts.pareto(points, Style(["a", "b"]), "ms", "mIoU in %")
    named = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert named["a"].get_alpha() < 0.5 and named["b"].get_alpha() == 1
    assert [handle.get_alpha() for handle in figure.legends[0].legend_handles] == [1, 1]


def test_alternatives_are_hollow_and_controls_dashed() -> None:
    nothing = np.full(2, NAN)
    curves = {
        kind: Curve(np.array([1.0, 2]), np.array([50.0, 60]), nothing, nothing, kind)
        for kind in ("method", "alternative", "control")
    }
    for figure in (
        charts.curves(curves, Style([*curves]), "px", "%"),
        charts.reliability(curves, Style([*curves])),
    ):
        lines = {str(line.get_label()): line for line in figure.axes[0].lines}
        assert lines["method"].get_markerfacecolor() != "none" == lines["alternative"].get_markerfacecolor()
        assert lines["control"].get_linestyle() == "--" and lines["control"].get_marker() == "None"


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
    methods, models = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert methods == ["ce", "crf", "ce-tta"] and models == ["no number: m", "2: n"]
    assert {text.get_text() for axes in figure.axes for text in axes.texts} == {"2"}, "the model of ce-tta"
    fronts = [[*axes.lines[0].get_xdata()] for axes in figure.axes[:3]]
    expected = [[5, 20, 30], [2], [3]]
    for front, costs in zip(fronts, expected, strict=True):
        assert front == pytest.approx(costs, rel=0.02), "what is doubtful, or not counted, may beat ce"
    assert (
        overview(board(latency_ms=[NAN] * 3, training_minutes=[NAN] * 3, multiply_adds=[NAN] * 3), style)
        is None
    )


@pytest.mark.parametrize("column", ["miou_i_mean", "boundary_iou_mean"])
def test_scores_that_nobody_computed_have_no_row(column: str) -> None:
    figure = overview(board(**{column: [NAN] * 3}), Style(["ce", "crf", "ce-tta"]))
    assert figure is not None and len(figure.axes) == (len(SCORES) - 1) * (len(COSTS) - 1)
