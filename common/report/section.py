"""What the page says about one dataset and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.report import confusion_tables, leaderboard_table, score_tables
from common.report.chart_data import draw_charts
from common.report.chart_style import Style
from common.report.contents import Section
from common.report.sortable_tables import SortableTable
from common.runs.plan import Group
from common.tables.frames import Tables
from common.tables.results import CERTIFICATE, Row

CLASSES_IN_TABLES = 40
"""With more classes than these, confusion matrices are pictures only."""


def make_section(
    identifier: str,
    group: Group,
    tables: Tables,
    rows: Sequence[Row],
    baseline: str,
    style: Style,
    figures: Path,
) -> tuple[Section, set[str]]:
    """What the page says about a dataset and model, and the names of the charts that were written for it.

    Args:
        identifier: What the section's links begin with.
        group: The dataset and model.
        tables: The lines about it.
        rows: Its methods.
        baseline: The method that the others are compared with.
        style: Of the methods in charts.
        figures: The folder of the charts.
    """
    where = f"{group.dataset}, {group.model}"
    caption = f"Leaderboard of {where}"
    section = Section(
        identifier,
        group.dataset,
        group.model,
        _facts(group, rows),
        leaderboard_table.leaderboard(tables.leaderboard, tables.comparisons, baseline, caption),
    )
    dataset = group.data.dataset
    section.classes = [
        (name, f"#{red:02x}{green:02x}{blue:02x}")
        for name, (red, green, blue) in zip(dataset.class_names, dataset.colours)
    ]
    _add_tables(section, tables, rows, baseline, where)
    counts = confusion_tables.pooled_confusion(rows)
    section.confusions = _confusions(counts, list(tables.leaderboard["method"]), dataset.class_names)
    drawn = draw_charts(group, tables, rows, counts, style, figures)
    section.charts, section.short_logs = drawn.charts, drawn.short_logs
    return section, drawn.files


def _add_tables(section: Section, tables: Tables, rows: Sequence[Row], baseline: str, where: str) -> None:
    """Adds the tables beside the leaderboard that there are numbers for."""
    board = tables.leaderboard
    if len(tables.comparisons):
        caption = f"Comparisons with {baseline} on {where}"
        section.comparisons = score_tables.comparison_table(tables.comparisons, caption)
    if len(tables.per_class):
        order, controls = list(board["method"]), set(board.loc[board["control"], "method"])
        caption = f"IoU of every class in percent, {where}"
        section.per_class = score_tables.class_table(tables.per_class, order, controls, baseline, caption)
    if len(tables.trimap):
        caption = f"mIoU in percent near boundaries, {where}"
        section.trimap = score_tables.trimap_table(tables.trimap, caption)
    certified = [
        (row.method, result.run.seed, result.metrics.diagnostics)
        for row in rows
        for result in row.results
        if result.metrics and {*CERTIFICATE} & {*result.metrics.diagnostics}
    ]
    if certified:
        section.diagnostics = score_tables.diagnostics_table(certified, f"Certificate of every run, {where}")


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
