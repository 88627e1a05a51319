"""From tables and logs to the charts of one dataset and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import UserError
from common.report import chart_files, charts, heat_maps
from common.report.chart_style import HOLLOW, PALE, SIDE_BY_SIDE, Style
from common.report.charts import Curve, Point
from common.report.contents import Chart
from common.report.validation_chart import validation_chart
from common.runs.benchmark import Group
from common.runs.jobs import TrainedRun
from common.runs.records import read_log
from common.tables.cells import device_of
from common.tables.frames import Tables
from common.tables.results import Row

POINTS = 300
"""A training curve has at most so many."""

Losses = dict[str, dict[int, NDArray[np.float64]]]
"""Iteration and loss `[n, 2]` of every training, by method and seed."""


@dataclass
class GroupCharts:
    """The charts of one dataset and model, drawn one after the other.

    Attributes:
        group: The dataset and model.
        folder: Where the files are written.
        style: Of the methods.
        charts: What stands in the page, by kind.
        files: The names of all files that were written, without suffix.
        short_logs: Methods that have no curve of training, as no log of theirs has two lines.
    """

    group: Group
    folder: Path
    style: Style
    charts: dict[str, Chart] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    short_logs: list[str] = field(default_factory=list)

    def add(self, kind: str, figure: Figure, caption: str, alt: str) -> None:
        """Writes a chart that stands in the page."""
        self.charts[kind] = Chart(self.save(kind, figure), caption, alt)

    def save(self, kind: str, figure: Figure) -> str:
        """Writes a chart and returns it as SVG."""
        name = f"{self.group.dataset}-{self.group.model}-{kind}"
        self.files.add(name)
        return chart_files.save(figure, self.folder / name)


def draw_charts(
    group: Group,
    tables: Tables,
    rows: Sequence[Row],
    counts: Mapping[str, NDArray[np.int64]],
    style: Style,
    folder: Path,
) -> GroupCharts:
    """Draws the charts that there are numbers for.

    Args:
        group: The dataset and model.
        tables: The lines about it.
        rows: Its methods, for the logs of their trainings.
        counts: Confusion counts `[K, K]` by method.
        style: Of the methods.
        folder: Where the files are written.
    """
    drawn = GroupCharts(group, folder, style)
    _draw_costs(drawn, tables.leaderboard)
    if len(tables.trimap):
        _draw_trimap(drawn, tables.trimap, tables.leaderboard)
    if len(tables.calibration):
        _draw_calibration(drawn, tables.calibration, tables.leaderboard)
    losses, drawn.short_logs = _losses(rows)
    if losses:
        _draw_losses(drawn, losses)
    validation = validation_chart(rows, style)
    if validation:
        drawn.add("validation", *validation)
    order = list(tables.leaderboard["method"])
    if len(tables.per_class):
        values = tables.per_class.pivot(index="method", columns="class", values="iou_mean")
        values = values.loc[[m for m in order if m in values.index], tables.per_class["class"].unique()]
        names = list(values.index), list(values.columns)
        drawn.save("classes", heat_maps.heat_map(values.to_numpy(), *names, "IoU in %"))
    if counts:
        known = {method: counts[method] for method in order if method in counts}
        drawn.save("confusion", heat_maps.confusions(known, group.data.dataset.class_names))
    return drawn


def _draw_costs(drawn: GroupCharts, board: pd.DataFrame) -> None:
    """Accuracy against latency, and against the time of training."""
    device = device_of(board)
    for kind, flag, cost, doubt, label, unit in (
        ("latency", "pareto_latency", "latency_ms", "latency_doubt", "latency of one image in ms", "ms"),
        (
            "training-cost", "pareto_training", "training_minutes", "training_doubt",
            "time of training in minutes", "min",
        ),
    ):  # fmt: skip
        points = _points(board, cost, doubt, flag)
        if points:
            texts = [
                f"{p.method} {p.score:.1f} % at {'~' if p.doubtful else ''}{p.cost:.3g} {unit}"
                for p in points
            ]
            drawn.add(
                kind,
                charts.pareto(points, drawn.style, label, "mIoU in %"),
                f"mIoU against {label}, measured on {device}. {_marks(points)}",
                f"mIoU against {label}: {'; '.join(texts)}",
            )


def _marks(points: Sequence[Point]) -> str:
    """What the marks of a chart of costs mean."""
    texts = ["Bars: 95 % intervals over seeds, an arrow where one goes on."]
    front = [point.method for point in points if point.best]
    if len(front) == 1 and len(points) > 1:
        texts.append(f"No other beats {front[0]} in both.")
    elif len(front) > 1:
        texts.append(f"The line joins those that no other beats in both: {', '.join(front)}.")
    if any(point.hollow for point in points):
        texts.append(HOLLOW)
    if any(point.doubtful for point in points):
        texts.append(PALE)
    if len(points) > 1:
        texts.append(SIDE_BY_SIDE)
    return " ".join(texts)


def _draw_trimap(drawn: GroupCharts, trimap: pd.DataFrame, board: pd.DataFrame) -> None:
    """Accuracy near boundaries."""
    bands = _trimap_curves(trimap, board)
    if not bands:
        return
    drawn.add(
        "trimap",
        charts.curves(bands, drawn.style, "width of the band in pixels", "mIoU in %"),
        "mIoU within a band around the truth's boundaries, by its width; shaded: 95 % interval over "
        f"seeds, as far as the axis goes. {_lines(bands, trimap['control'].any())}".strip(),
        "mIoU near boundaries: "
        + "; ".join(f"{m} from {c.mean[0]:.1f} % to {c.mean[-1]:.1f} %" for m, c in bands.items()),
    )


def _lines(curves: Mapping[str, Curve], controls: bool) -> str:
    """What the lines of a chart mean.

    Args:
        curves: Those that are drawn.
        controls: Whether there are controls.
    """
    kinds = {curve.kind for curve in curves.values()}
    texts = [HOLLOW] if "alternative" in kinds else []
    if "control" in kinds:
        texts.append("Dashed: a control.")
    if controls:
        texts.append("A control far from all methods is left out.")
    return " ".join(texts)


def _draw_calibration(drawn: GroupCharts, calibration: pd.DataFrame, board: pd.DataFrame) -> None:
    """Accuracy against confidence."""
    bins = _calibration_curves(calibration, board)
    drawn.add(
        "calibration",
        charts.reliability(bins, drawn.style),
        "How often the labels of a confidence are right; on the diagonal, confidence is honest. "
        f"{_lines(bins, controls=False)}".strip(),
        "Accuracy against confidence: "
        + "; ".join(f"{m} {c.mean[-1]:.0f} % right where surest" for m, c in bins.items()),
    )


def _draw_losses(drawn: GroupCharts, losses: Losses) -> None:
    """Training curves."""
    last = {m: np.mean([lines[-1, 1] for lines in seeds.values()]) for m, seeds in losses.items()}
    drawn.add(
        "training",
        charts.training(losses, drawn.style),
        "Loss of every training, one dash per seed. Scales differ: losses of different methods do not "
        "compare, and a loss with a log-determinant can be negative. A first peak may be cut off.",
        "Loss at the end of training: " + "; ".join(f"{m} {loss:.3g}" for m, loss in last.items()),
    )


def _points(board: pd.DataFrame, cost: str, doubt: str, flag: str) -> list[Point]:
    """The methods whose score and cost are known.

    Args:
        board: The leaderboard.
        cost: The column of the cost.
        doubt: The column that says why a cost is not to be relied on.
        flag: The column that says which methods are on the front.
    """
    return [
        Point(
            str(line["method"]),
            line[cost],
            line["miou_mean"],
            line["miou_low"],
            line["miou_high"],
            best=str(line[flag]) == "True",
            hollow=line["kind"] != "method",
            doubtful=isinstance(line[doubt], str) and line[doubt] != "",
        )
        for line in board[board["miou_mean"].notna() & (board[cost] > 0)].to_dict("records")
    ]


def _in_order(curves: Mapping[str, Curve], board: pd.DataFrame) -> dict[str, Curve]:
    """Curves in the order of the leaderboard, with the kinds of their methods."""
    kinds = dict(zip(board["method"], board["kind"]))
    return {method: replace(curves[method], kind=kind) for method, kind in kinds.items() if method in curves}


def _trimap_curves(trimap: pd.DataFrame, board: pd.DataFrame) -> dict[str, Curve]:
    """The mIoU near boundaries by the width of the band, per method; controls far from these are left out."""
    curves = {}
    scores = trimap.loc[~trimap["control"], "miou_mean"]
    near = 0.25 * (scores.max() - scores.min())
    for method, lines in trimap.groupby("method", sort=False):
        inside = lines["miou_mean"].between(scores.min() - near, scores.max() + near)
        if lines["control"].any() and not inside.all():
            continue
        lines = lines.sort_values("width")
        columns = (lines[key].to_numpy(float) for key in ("width", "miou_mean", "miou_low", "miou_high"))
        curves[str(method)] = Curve(*columns)
    return _in_order(curves, board)


def _calibration_curves(calibration: pd.DataFrame, board: pd.DataFrame) -> dict[str, Curve]:
    """Accuracy by confidence in percent, per method."""
    curves = {}
    known = calibration.dropna(subset=["confidence", "accuracy"])
    for method, lines in known.groupby("method", sort=False):
        nothing = np.full(len(lines), np.nan)
        percent = 100 * lines[["confidence", "accuracy"]].to_numpy(float)
        curves[str(method)] = Curve(percent[:, 0], percent[:, 1], nothing, nothing)
    return _in_order(curves, board)


def _losses(rows: Iterable[Row]) -> tuple[Losses, list[str]]:
    """The training curves of the methods that train their own models, and those whose logs have one line."""
    losses: Losses = {}
    short: dict[str, None] = {}
    for row in rows:
        for result in row.results:
            run = result.run
            if isinstance(run, TrainedRun) and run.training.method == run.method:
                lines = _loss(run.training.log)
                if len(lines) > 1:
                    losses.setdefault(run.method, {})[run.seed] = lines
                elif len(lines):
                    short[run.method] = None
    return losses, [method for method in short if method not in losses]


def _loss(path: Path) -> NDArray[np.float64]:
    """Iteration and loss `[n, 2]` of a training log, thinned to means of as many lines as needed."""
    try:
        log = read_log(path)
    except UserError:
        log = []
    lines = np.array([(line.iteration, line.loss) for line in log], float).reshape(-1, 2)
    step = -(-len(lines) // POINTS)
    if step <= 1:
        return lines
    parts = np.array_split(lines, -(-len(lines) // step))
    return np.array([part.mean(axis=0) for part in parts])
