"""The tables of numbers: leaderboard, comparisons, classes, bands near boundaries, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from common.runs.records import Reliability
from common.scoring.boundaries import TRIMAP_WIDTHS
from common.scoring.objects import SIZES
from common.tables import comparisons, costs, doubts
from common.tables.bootstrap import Bootstrap
from common.tables.cells import scored_on
from common.tables.frames import Line, lines_of
from common.tables.intervals import interval_over_seeds, mean_and_deviation
from common.tables.results import CERTIFICATE, ControlRow, Row, ScoreRow
from common.tables.sides import METRICS, side_of

SCORES = (
    *("miou", "pixel_accuracy", "boundary_iou", "boundary_f", "ece"),
    *("miou_i", "miou_c", "worst_quarter", "worst_class"),
)
"""Fractions among the scores that tables show in percent."""

METHOD, CONTROL = "method", "control"
"""Kinds of lines."""

AnyRow = TypeVar("AnyRow", bound=ScoreRow)


def _by_group(rows: Iterable[AnyRow]) -> dict[tuple[str, str], list[AnyRow]]:
    """The rows of each dataset and model."""
    groups: dict[tuple[str, str], list[AnyRow]] = {}
    for row in rows:
        groups.setdefault(row.group.key, []).append(row)
    return groups


def comparison_table(rows: Sequence[Row], baseline: str, bootstrap: Bootstrap) -> pd.DataFrame:
    """Every method beside the baseline of its dataset and model, by every score of `sides.METRICS`.

    p values are adjusted over the methods of a dataset, model and score.

    Args:
        rows: Of all datasets and models.
        baseline: The name of the method that the others are compared with.
        bootstrap: Where the chance of the images is known from.

    Returns:
        A line per comparison: dataset, model, method, baseline and `comparisons.COLUMNS`.
    """
    head = ["dataset", "model", "method", "baseline"]
    tables = []
    for members in _by_group(rows).values():
        reference = next((side_of(row) for row in members if row.method == baseline), None)
        others = [row for row in members if row.method != baseline]
        if reference is None or not others:
            continue
        names = pd.DataFrame([row.names | {"baseline": baseline} for row in others])
        pairs = [(side_of(row), reference) for row in others]
        for metric in METRICS:
            tables.append(pd.concat([names, comparisons.compare(metric, pairs, bootstrap)], axis=1))
    if not tables:
        return pd.DataFrame(columns=[*head, *comparisons.COLUMNS])
    return pd.concat(tables, ignore_index=True)


def leaderboard(
    rows: Sequence[Row],
    controls: Sequence[ControlRow],
    baseline: str,
    compared: pd.DataFrame,
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """One line per dataset, model and method, best first, then what else its cost would buy, then controls.

    Scores are percent, times are medians in milliseconds, on one device within a dataset and model;
    `difference` is to the baseline, over seeds and images. `seeds` counts the seeds with scores.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
        baseline: The name of the method that the others are compared with.
        compared: The comparisons with it.
        bootstrap: Where the chance of the images is known from.
    """
    differences = {
        (line["dataset"], line["model"], line["method"]): line
        for line in lines_of(compared[compared["metric"] == "miou"])
    }
    lines: list[Line] = []
    control_rows = _by_group(controls)
    for key, members in _by_group(rows).items():
        group = _method_lines(members, baseline, differences, bootstrap)
        group.sort(
            key=lambda line: (line["kind"] != METHOD, -line["miou_mean"] if line["seeds"] else math.inf)
        )
        lines += group
        lines += [{**_score_line(row), "error": row.result.error} for row in control_rows.get(key, [])]
    return pd.DataFrame(lines, columns=list(lines[0]))


def _method_lines(
    rows: Sequence[Row], baseline: str, differences: Mapping[tuple[str, str, str], Line], bootstrap: Bootstrap
) -> list[Line]:
    """The lines of the methods of one dataset and model."""
    device = costs.main_device({row.method: row.costs for row in rows}, baseline)
    doubted = doubts.doubts(rows)
    places = comparisons.ranks("miou", [side_of(row) for row in rows], bootstrap)
    minutes = costs.training_minutes(rows, device)
    lines = []
    for row, place, training, whole in zip(rows, places, costs.training_costs(rows), minutes):
        measured = any(cost.device == device for cost in row.costs)
        lines.append(
            {
                **_score_line(row),
                "rank": place,
                **_difference(differences.get(row.key, {}), row.method == baseline),
                **costs.medians(row.costs, training, device),
                "training_minutes": whole,
                "uncounted": costs.uncounted(row.costs),
                **{key: mean_and_deviation(row.values("diagnostics", key))[0] for key in CERTIFICATE},
                "device": device if measured else "",
                "latency_doubt": doubts.words(doubted, row, device, "latency") if measured else "",
                "training_doubt": doubts.words(doubted, row, device, "training") if measured else "",
                "scored_on": scored_on(row.evaluation),
                "tuned": row.tuned,
                "decides": any(row.values("decides")),
                "origin": row.origin,
                "error": row.error,
            }
        )
    comparable = len({cost.recipe for row in rows for cost in row.costs}) == 1
    for kind, key in (("latency", "latency_ms"), ("training", "training_minutes")):
        times = [line[key] if comparable else math.nan for line in lines]
        doubtful = [bool(line[f"{kind}_doubt"]) for line in lines]
        flags = costs.pareto([line["miou_mean"] for line in lines], times, doubtful)
        for line, on_front in zip(lines, flags):
            line[f"pareto_{kind}"] = on_front
    return lines


def _score_line(row: ScoreRow) -> Line:
    """What a line of the leaderboard says of a row alone."""
    control = isinstance(row, ControlRow)
    seeds = 0 if control else len(row.values("miou"))
    line: Line = {
        **row.names,
        "control": control,
        "kind": row.kind if isinstance(row, Row) else CONTROL,
        "rank": math.nan,
        "seeds": seeds,
    }
    scores = {key: row.percent(key) for key in SCORES} | {"nll": row.values("nll")}
    scores |= {f"recall_{size}": row.percent("recall_by_size", size) for size in SIZES}
    for key, values in scores.items():
        line[f"{key}_mean"], line[f"{key}_std"] = mean_and_deviation(values)
        line[f"{key}_low"], line[f"{key}_high"] = interval_over_seeds(values)
    return line


def _difference(comparison: Line, is_baseline: bool) -> Line:
    """What a line of the leaderboard takes from its comparison with the baseline, if there is one."""
    columns = {
        "difference_mean": "difference",
        "difference_std": "difference_std",
        "difference_low": "low",
        "difference_high": "high",
        "p": "p",
        "p_holm": "p_holm",
    }
    return {
        **{column: comparison.get(key, math.nan) for column, key in columns.items()},
        "reading": "baseline" if is_baseline else comparison.get("reading", ""),
        "detectable": comparison.get("detectable", math.nan),
    }


def trimap_table(rows: Iterable[ScoreRow]) -> pd.DataFrame:
    """MIoU in percent within bands of several widths around the truth's contours."""
    lines = []
    for row in rows:
        for width in TRIMAP_WIDTHS:
            values = row.percent("trimap_miou", str(width))
            if values:
                name = [*row.key, isinstance(row, ControlRow), width, len(values)]
                lines.append([*name, *mean_and_deviation(values), *interval_over_seeds(values)])
    columns = ["dataset", "model", "method", "control", "width", "seeds"]
    return pd.DataFrame(lines, columns=[*columns, "miou_mean", "miou_std", "miou_low", "miou_high"])


def calibration_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Confidence and accuracy of every bin of confidence, pooled over seeds."""
    lines: list[list[Any]] = []
    for row in rows:
        curves: list[Reliability] = row.values("reliability")
        if not curves:
            continue
        pixels = np.array([curve.pixels for curve in curves])
        total = pixels.sum(axis=0)
        safe = np.where(total > 0, total, np.nan)
        confidence = np.array([curve.confidence for curve in curves], float)  # None becomes NaN
        accuracy = np.array([curve.accuracy for curve in curves], float)
        means = [np.nansum(pixels * x, axis=0) / safe for x in (confidence, accuracy)]
        for place, numbers in enumerate(zip(total, *means)):
            edges = (place / len(total), (place + 1) / len(total))
            lines.append([*row.key, *edges, *numbers])
    columns = ["dataset", "model", "method", "bin_low", "bin_high", "pixels", "confidence", "accuracy"]
    return pd.DataFrame(lines, columns=columns)


def per_class_table(rows: Iterable[ScoreRow]) -> pd.DataFrame:
    """IoU in percent of every class, mean over the seeds in which it occurs."""
    lines = []
    for row in rows:
        scores = row.values("iou")
        for name in scores[0] if scores else ():
            values = row.percent("iou", name)
            mean, deviation = mean_and_deviation(values)
            lines.append([*row.key, name, len(values), mean, deviation])
    columns = ["dataset", "model", "method", "class", "seeds", "iou_mean", "iou_std"]
    return pd.DataFrame(lines, columns=columns)
