"""What the page says about a dataset, over all models and methods."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from common.report import chart_files
from common.report.chart_style import HOLLOW, PALE, SIDE_BY_SIDE, Style
from common.report.contents import Chart, Overview
from common.report.overview_chart import overview
from common.report.sortable_tables import Cell, Column, SortableTable, TableRow, word
from common.tables.answers import Answer, answers
from common.tables.budgets import device_of_dataset
from common.tables.cells import methods_of
from common.tables.frames import Tables

WORDS = ("best", "not shown to be worse (Δ)")
"""Columns of the table of budgets that hold words."""


def make_overview(
    dataset: str, tables: Tables, style: Style, figures: Path
) -> tuple[Overview | None, set[str]]:
    """What the page says about a dataset, and the names of the charts that were written; None without costs.

    Args:
        dataset: The dataset's name.
        tables: The lines about it.
        style: Of the methods in charts.
        figures: The folder of the charts.
    """
    methods = methods_of(tables.leaderboard)
    device = device_of_dataset(methods)
    if not device:
        return None, set()
    measured = methods[methods["device"] == device]
    parts = answers(tables.leaderboard, tables.budgets)
    chart, files = None, set()
    figure = overview(measured, style)
    if figure is not None:
        name = f"{dataset}-{chart_files.OVERVIEW}"
        files.add(name)
        alt = " ".join(part.sentences for part in parts)
        chart = Chart(chart_files.save(figure, figures / name), _caption(measured, device), alt)
    sentences = [part.sentences for part in parts]
    return Overview(sentences, chart, [*map(_budgets, parts)]), files


def _caption(measured: pd.DataFrame, device: str) -> str:
    """What the marks of the chart mean."""
    texts = [
        f"All methods and models that were measured on {device}; the lines join those that no other beats in "
        f"both. Bars: 95 % intervals over seeds, an arrow where one goes on. {SIDE_BY_SIDE}"
    ]
    if (measured["kind"] == "alternative").any():
        texts.append(HOLLOW)
    if (measured[["latency_doubt", "training_doubt"]].fillna("") != "").any(axis=None):
        texts.append(PALE)
    uncounted = sorted(set(measured.loc[measured["uncounted"].fillna("") != "", "method"]))
    if uncounted:
        texts.append(
            "Multiply-adds are those of convolutions and matrix products in network and structure; pale, and "
            f"on no line, is what computes more: {', '.join(uncounted)}."
        )
    return " ".join(texts)


def _budgets(answer: Answer) -> SortableTable:
    """What is best at every budget of one kind."""
    table = SortableTable(
        answer.about, [Column(title, words=title in WORDS) for title in answer.cells.columns]
    )
    for line in answer.cells.to_dict("records"):
        cells = [
            word(_in_lines(text)) if key in WORDS else Cell(text, _value(text)) for key, text in line.items()
        ]
        table.rows.append(TableRow(cells))
    return table


def _in_lines(text: str) -> str:
    """A list with true minus signs, a line per name."""
    return re.sub(r"(?<=[ \[])-(?=\d)", "−", text).replace("; ", "\n")


def _value(text: str) -> float:
    """What a cell of a number is sorted by."""
    return float(text.split()[0].lstrip("~"))
