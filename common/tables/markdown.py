"""The tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
from tabulate import tabulate as format_table

from common.runs.benchmark import Group
from common.tables import cells, others, published
from common.tables.answers import answers
from common.tables.frames import Tables
from common.tables.legend import legend
from common.tables.published import Numbers
from common.tables.results import CERTIFICATE


def page(
    groups: Sequence[Group], baseline: str, tables: Tables, numbers: Numbers, notes: Sequence[str]
) -> str:
    """All tables, with what they mean.

    Args:
        groups: The datasets and models.
        baseline: The name of the method that the others are compared with.
        tables: Of all of them.
        numbers: What is published about their methods.
        notes: What a reader must know before comparing rows.
    """
    parts = ["# Leaderboard"]
    for group in groups:
        own = tables.of(*group.key)
        parts.append(f"## {group.dataset}, {group.model} (scored on {cells.scored_on(group.evaluation)})")
        parts.append(github(cells.main_cells(own, baseline)))
        sources = published.sources(numbers, cells.methods_of(own.leaderboard))
        if sources:
            parts.append("Published mIoU, % (the table shows the first source's):\n\n" + "\n".join(sources))
        parts += _secondary(own, baseline)
        if group is [other for other in groups if other.dataset == group.dataset][-1]:
            parts += _worth(group.dataset, tables)
    if len(tables.other_results):
        parts += [f"## {others.TITLE}", others.ABOUT, github(others.cells(tables.other_results))]
    parts += legend(tables.leaderboard, baseline)
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _worth(dataset: str, tables: Tables) -> list[str]:
    """What is worth its cost on a dataset; nothing where no cost is known."""
    own = tables.of(dataset)
    parts = []
    for answer in answers(own.leaderboard, own.budgets):
        parts += [escape(answer.sentences), f"{escape(answer.about)}:\n\n{github(answer.cells)}"]
    return [f"## {dataset}: what is worth its cost", *parts] if parts else []


def github(table: pd.DataFrame) -> str:
    """Cells as a Markdown table; names of classes and messages are shown as they are."""
    free = [name for name in ("class", "error", "differs") if name in table]
    table = table.assign(**{name: [escape(str(text)) for text in table[name]] for name in free})
    return format_table(table, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)


def escape(text: str) -> str:
    """A text as Markdown shows it, in one line: no emphasis, links, mathematics or HTML are made of it."""
    text = re.sub(r"[\\`*\[\]<>|~$#&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)
    return " ".join(text.split())


def _secondary(tables: Tables, baseline: str) -> list[str]:
    """The tables below the main one of a dataset and model, those of which something is known."""
    parts = []
    if len(tables.trimap):
        parts.append("Boundaries and calibration:\n\n" + github(cells.boundary_cells(tables, baseline)))
    if not tables.leaderboard["miou_i_mean"].isna().all():
        parts.append("By image, class and size of objects:\n\n" + github(cells.image_cells(tables, baseline)))
    methods = cells.methods_of(tables.leaderboard)
    device = cells.device_of(methods)
    if device:
        parts.append(f"Cost on {device}:\n\n" + github(cells.cost_cells(methods)))
    if not methods[[*CERTIFICATE]].isna().all(axis=None):
        parts.append("Certificate of the CRF:\n\n" + github(cells.certificate_cells(methods)))
    if len(tables.per_class):
        parts.append("IoU per class, %:\n\n" + github(cells.class_cells(tables.per_class)))
    return parts
