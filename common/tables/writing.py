"""Making the tables and picture panels of a benchmark from whatever run files exist.

Nothing is trained or evaluated here, so it may be done at any time: runs that failed or are not there yet
are rows with their reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import read_arrays, replacing, write_json
from common.runs.outputs import forget_tables
from common.runs.plan import Benchmark, Group
from common.tables import latex, markdown, panels, published
from common.tables.bootstrap import Bootstrap
from common.tables.costs import cost_table
from common.tables.frames import Tables
from common.tables.leaderboard import (
    calibration_table,
    comparison_table,
    leaderboard,
    per_class_table,
    trimap_table,
)
from common.tables.notes import notes
from common.tables.published import Numbers
from common.tables.results import ControlRow, Row, read_controls, read_results, rows_of


def write_tables(benchmark: Benchmark) -> Path:
    """Writes all tables and panels and returns the path of the leaderboard in Markdown."""
    outputs, baseline = benchmark.outputs, benchmark.tables.baseline
    folder = outputs.results
    results = read_results(benchmark)
    rows, controls = rows_of(benchmark, results), read_controls(benchmark)
    numbers = published.numbers(rows)
    bootstrap = Bootstrap(folder / "cache" / "bootstrap.json")
    tables = make_tables(rows, controls, baseline, numbers, bootstrap)
    bootstrap.save()
    tables.write(folder)
    warnings = notes(rows, controls, tables.comparisons)
    page = markdown.page(benchmark.groups, baseline, tables, numbers, warnings)
    _write_text(folder / "leaderboard.md", page)
    _write_text(folder / "leaderboard.tex", latex.document(benchmark.groups, baseline, tables))
    for group in benchmark.groups:
        chosen = [row for row in rows if row.group.key == group.key]
        _draw_panel(outputs.panel(*group.key), group, chosen)
    forget_tables(folder)
    if all(result.complete for result in results):
        write_json(outputs.stamp, {"runs": [str(run.folder) for run in benchmark.runs]})
    return folder / "leaderboard.md"


def make_tables(
    rows: Sequence[Row],
    controls: Sequence[ControlRow],
    baseline: str,
    numbers: Numbers,
    bootstrap: Bootstrap,
) -> Tables:
    """All tables of numbers.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
        baseline: The name of the method that the others are compared with.
        numbers: What is published about the rows.
        bootstrap: Where the chance of the images is known from.
    """
    everything = [*rows, *controls]
    compared = comparison_table(rows, baseline, bootstrap)
    return Tables(
        published.beside(leaderboard(rows, controls, baseline, compared, bootstrap), numbers),
        compared,
        published.beside_classes(per_class_table(everything), numbers),
        trimap_table(everything),
        calibration_table(rows),
        cost_table(rows),
    )


def _write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def _draw_panel(path: Path, group: Group, rows: Sequence[Row]) -> None:
    """The panel of one dataset and model, from each method's first seed that has a result."""
    columns = {}
    for row in rows:
        scored = (result.run for result in row.results if result.metrics)
        run = next((run for run in scored if run.panel.exists()), None)
        if run:
            with contextlib.suppress(UserError):  # a damaged file costs its column
                arrays = read_arrays(run.panel)
                columns[f"{row.method} (seed {run.seed})"] = [arrays[key] for key in sorted(arrays)]
    if not columns or not group.data.panel.exists():
        return
    dataset = group.data.dataset
    split = dataset.parts(group.evaluation.split)[0]  # of joined splits, the panel shows the first
    with contextlib.suppress(UserError):  # a damaged file costs the panel
        panels.draw_panel(path, dataset, group.data.panel, split, columns)
