"""What the page says about one dataset: what is worth its cost, one leaderboard, and a part per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.report import leaderboard_table, score_tables
from common.report.chart_style import Style
from common.report.contents import Section
from common.report.model_part import make_part
from common.report.overview import make_overview
from common.runs.benchmark import Group
from common.tables.frames import Tables
from common.tables.results import Row


def make_section(
    identifier: str,
    groups: Sequence[Group],
    tables: Tables,
    rows: Sequence[Row],
    baseline: str,
    style: Style,
    figures: Path,
) -> tuple[Section, set[str]]:
    """What the page says about a dataset, and the names of the charts that were written for it.

    Args:
        identifier: What the section's links begin with.
        groups: The dataset with each of its models.
        tables: The lines about it.
        rows: Of all datasets and models.
        baseline: The method that the others are compared with.
        style: Of the methods in charts.
        figures: The folder of the charts.
    """
    dataset = groups[0].data.dataset
    name = groups[0].dataset
    overview, files = make_overview(name, tables, style, figures)
    comparisons = None
    if len(tables.comparisons):
        caption = f"Comparisons with {baseline} on {name}"
        comparisons = score_tables.comparison_table(tables.comparisons, caption)
    caption = f"Leaderboard of {name}, {groups[0].model}" if len(groups) == 1 else f"Leaderboard of {name}"
    section = Section(
        identifier,
        name,
        [
            (label, f"#{red:02x}{green:02x}{blue:02x}")
            for label, (red, green, blue) in zip(dataset.class_names, dataset.colours)
        ],
        overview,
        leaderboard_table.leaderboard(tables.leaderboard, tables.comparisons, baseline, caption),
        comparisons,
        [],
    )
    for index, group in enumerate(groups, 1):
        own = [row for row in rows if row.group.key == group.key]
        part, drawn = make_part(
            f"{identifier}-m{index}", group, tables.of(*group.key), own, baseline, style, figures
        )
        section.parts.append(part)
        files |= drawn
    return section, files
