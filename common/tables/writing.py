"""Making the tables and picture panels of a benchmark from whatever run files exist.

Nothing is trained or evaluated here, so it may be done at any time: runs that failed or are not there yet
are rows with their reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import UnreadableRecord, UserError
from common.files import read_record, replacing, write_record
from common.integrity import StoredFile, read_arrays
from common.runs.benchmark import Benchmark, Group
from common.runs.outputs import Outputs, forget_tables
from common.tables import latex, markdown, published
from common.tables.bootstrap import Bootstrap
from common.tables.budgets import budget_table
from common.tables.costs import cost_table
from common.tables.frames import Tables
from common.tables.leaderboard import (
    calibration_table,
    comparison_table,
    leaderboard,
    per_class_table,
    trimap_table,
)
from common.tables.new_counts import count_new
from common.tables.notes import notes
from common.tables.others import check_kept, other_notes, read_others
from common.tables.published import Numbers
from common.tables.remembered import RememberedScores
from common.tables.results import (
    ControlResult,
    ControlRow,
    Result,
    Row,
    read_controls,
    read_results,
    recorded,
    rows_of,
)


def write_tables(benchmark: Benchmark) -> Path:
    """Writes all tables and panels and returns the path of the leaderboard in Markdown.

    Raises:
        UserError: No run has a result, and the tables that are there show some; they are left as they are.
        UnreadableRecord: Once all is written: files of results are damaged or out of reach.
    """
    outputs, baseline = benchmark.outputs, benchmark.tables.baseline
    folder = outputs.results
    remembered = RememberedScores.of(benchmark)
    new = count_new(benchmark, remembered.known)
    results = read_results(benchmark, remembered.known, new.records)
    others = read_others(benchmark, remembered.known)
    remembered.save()
    if not any(result.metrics for result in results):
        check_kept(benchmark, others)
    rows, controls = rows_of(benchmark, results), read_controls(benchmark)
    numbers = published.numbers(rows)
    bootstrap = Bootstrap(folder / "cache" / "bootstrap.json", new.compared)
    tables = make_tables(rows, controls, baseline, numbers, bootstrap, others.table(benchmark))
    bootstrap.save()
    tables.write(folder)
    warnings = [*notes(rows, controls, tables.comparisons), *other_notes(benchmark, results, others)]
    page = markdown.page(benchmark.groups, baseline, tables, numbers, warnings)
    _write_text(folder / "leaderboard.md", page)
    _write_text(folder / "leaderboard.tex", latex.document(benchmark.groups, baseline, tables))
    faults: list[UserError] = []
    for group in benchmark.groups:
        chosen = [row for row in rows if row.group.key == group.key]
        _draw_panel(outputs.panel(*group.key), group, chosen, faults)
    forget_tables(folder)
    _check_readable([*results, *(row.result for row in controls)], faults)
    if all(result.complete for result in results):
        files = StoredFile.all_of(folder / f"{name}.csv" for name in tables.names)
        write_record(outputs.stamp, Stamp([str(run.folder) for run in benchmark.runs], files))
    return folder / "leaderboard.md"


@dataclass(frozen=True)
class Stamp:
    """The record that tables show all results.

    Attributes:
        runs: The folders of the runs.
        files: The tables of numbers, by their names.
    """

    runs: list[str]
    files: dict[str, StoredFile]


def up_to_date(outputs: Outputs) -> bool:
    """Whether all tables are there, show all results, and are as they were written."""
    try:
        stamp = read_record(outputs.stamp, Stamp, "delete it")
        for name, stored in stamp.files.items():
            stored.check(outputs.results / name, "delete it")
    except UserError:
        return False
    return all(path.exists() for path in outputs.tables)


def _check_readable(results: Sequence[Result | ControlResult], faults: Sequence[UserError]) -> None:
    """Ends the stage if files are damaged or out of reach; `faults` are those of pictures."""
    count = sum(result.unreadable for result in results)
    sentences = []
    if count:
        sentences.append(f"files of {count} results are damaged or out of reach, and their rows say why")
    sentences += map(str, faults)
    if sentences:
        text = "; ".join(sentences)
        raise UnreadableRecord(f"{text}. All else is in the tables: run again to have the rest made")


def make_tables(
    rows: Sequence[Row],
    controls: Sequence[ControlRow],
    baseline: str,
    numbers: Numbers,
    bootstrap: Bootstrap,
    other_results: pd.DataFrame,
) -> Tables:
    """All tables of numbers.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
        baseline: The name of the method that the others are compared with.
        numbers: What is published about the rows.
        bootstrap: Where the chance of the images is known from.
        other_results: What is not of the configuration.
    """
    everything = [*rows, *controls]
    compared = comparison_table(rows, baseline, bootstrap)
    board = leaderboard(rows, controls, baseline, compared, bootstrap)
    return Tables(
        published.beside(board, numbers),
        compared,
        published.beside_classes(per_class_table(everything), numbers),
        trimap_table(everything),
        calibration_table(rows),
        cost_table(rows),
        budget_table(board, rows, bootstrap),
        other_results,
    )


def _write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def _draw_panel(path: Path, group: Group, rows: Sequence[Row], faults: list[UserError]) -> None:
    """The panel of one dataset and model, from each method's first seed that has a result.

    Args:
        path: The PNG to write.
        group: The dataset and model.
        rows: Its methods.
        faults: What is damaged or out of reach is added to it.
    """
    columns = {}
    for row in rows:
        scored = (result for result in row.results if result.metrics)
        result = next((result for result in scored if result.run.panel.exists()), None)
        if result and result.metrics:
            run = result.run
            try:
                stored = result.metrics.files.get(run.panel.name)
                arrays = read_arrays(run.panel, "delete it and evaluate again", stored)
            except UserError as error:  # it costs its column
                faults.append(recorded(error, run.error, "evaluate"))
                continue
            columns[f"{row.method} (seed {run.seed})"] = [arrays[key] for key in sorted(arrays)]
    data = group.data
    if not columns or not data.panel.exists():
        return
    from common.tables import panels  # with Matplotlib, which only they need

    split = data.dataset.parts(group.evaluation.split)[0]  # of joined splits, the panel shows the first
    try:
        panels.draw_panel(path, data.dataset, data.panel, data.manifest().panel, split, columns)
    except UserError as error:  # it costs the panel
        faults.append(recorded(error, data.error, "prepare"))
