"""What the page says about one model on a dataset, beside the tables of all models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.report import confusion_tables, score_tables
from common.report.chart_data import draw_charts
from common.report.chart_style import Style
from common.report.contents import ModelPart
from common.report.sortable_tables import SortableTable
from common.runs.benchmark import Group
from common.tables.frames import Tables
from common.tables.results import CERTIFICATE, Row

CLASSES_IN_TABLES = 40
"""With more classes than these, confusion matrices are pictures only."""


def make_part(
    identifier: str,
    group: Group,
    tables: Tables,
    rows: Sequence[Row],
    baseline: str,
    style: Style,
    figures: Path,
) -> tuple[ModelPart, set[str]]:
    """What the page says about a model on a dataset, and the names of the charts that were written for it.

    Args:
        identifier: What the part's links begin with.
        group: The dataset and model.
        tables: The lines about it.
        rows: Its methods.
        baseline: The method that the others are compared with.
        style: Of the methods in charts.
        figures: The folder of the charts.
    """
    part = ModelPart(identifier, group.dataset, group.model, _facts(group, rows))
    _add_tables(part, tables, rows, baseline)
    counts = confusion_tables.pooled_confusion(rows)
    class_names = group.data.dataset.class_names
    part.confusions = _confusions(counts, list(tables.leaderboard["method"]), class_names)
    drawn = draw_charts(group, tables, rows, counts, style, figures)
    part.charts, part.short_logs = drawn.charts, drawn.short_logs
    return part, drawn.files


def _add_tables(part: ModelPart, tables: Tables, rows: Sequence[Row], baseline: str) -> None:
    """Adds the tables that there are numbers for."""
    board, where = tables.leaderboard, f"{part.dataset}, {part.model}"
    if len(tables.per_class):
        order, controls = list(board["method"]), set(board.loc[board["control"], "method"])
        caption = f"IoU of every class in percent, {where}"
        part.per_class = score_tables.class_table(tables.per_class, order, controls, baseline, caption)
    if len(tables.trimap):
        caption = f"mIoU in percent near boundaries, {where}"
        part.trimap = score_tables.trimap_table(tables.trimap, caption)
    certified = [
        (row.method, result.run.seed, result.metrics.diagnostics)
        for row in rows
        for result in row.results
        if result.metrics and {*CERTIFICATE} & {*result.metrics.diagnostics}
    ]
    if certified:
        part.diagnostics = score_tables.diagnostics_table(certified, f"Certificate of every run, {where}")


def _facts(group: Group, rows: Sequence[Row]) -> str:
    """What was scored and how it was trained, in a sentence."""
    scored = [(r.run.seed, r.metrics.images) for row in rows for r in row.results if r.metrics]
    images = sorted({number for _, number in scored})
    seeds = sorted({seed for seed, _ in scored})
    training = group.training
    parts = [
        f"Scored on {group.evaluation.split}"
        + (f" ({' or '.join(map(str, images))} images)" if images else ""),
        f"trained on {training.split} for {training.iterations} iterations of "
        f"{training.batch_size * training.accumulate} images",
        f"seeds {', '.join(map(str, seeds))}" if seeds else "no run has scores yet",
    ]
    return "; ".join(parts) + "."


def _confusions(
    counts: Mapping[str, NDArray[np.int64]], order: Sequence[str], class_names: Sequence[str]
) -> dict[str, tuple[str, SortableTable | None]]:
    """Per method, in that order, its commonest confusions in words, and its confusion matrix or None."""
    confusions = {}
    for method in (name for name in order if name in counts):
        table = None
        if len(class_names) <= CLASSES_IN_TABLES:
            caption = f"Confusion matrix of {method}: percent of each row's pixels, all seeds together"
            table = confusion_tables.confusion_table(counts[method], class_names, caption)
        confusions[method] = (confusion_tables.confusions_text(counts[method], class_names), table)
    return confusions
