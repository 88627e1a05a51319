"""The times of the kernels as files: a CSV per family, and a page that gathers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from common.files import replacing
from common.timing.cases import Timing
from common.timing.journal import Journal, Session

PAGE = "kernels.md"

PLACE = ("N", "K", "H", "W", "model", "precision", "work")
"""What is compared: versions that share all of these stand side by side."""

TIMES = {
    "passes": ("forward_ms", "backward_ms"),
    "image": ("image_ms",),
    "inference": ("inference_ms",),
    "job": ("seconds",),
}
"""What is compared of them: times that add up."""

COLUMNS = {
    "size": ("N, K, H, W", 1, "{}"),
    "work": ("work", 1, "{}"),
    "model": ("model", 1, "{}"),
    "precision": ("precision", 1, "{}"),
    "version": ("version", 1, "{}"),
    "forward_ms": ("forward ms", 1, "{:.2f}"),
    "backward_ms": ("backward ms", 1, "{:.2f}"),
    "passes_over_ms": ("over the reference ms", 1, "{:+.2f}"),
    "image_ms": ("ms per image", 1, "{:.2f}"),
    "images_per_s": ("images/s", 1, "{:.2f}"),
    "step_ms": ("step ms", 1, "{:.1f}"),
    "step_over_ms": ("over the reference ms", 1, "{:+.1f}"),
    "inference_ms": ("inference ms", 1, "{:.1f}"),
    "inference_over_ms": ("inference over the reference ms", 1, "{:+.1f}"),
    "structure_ms": ("structure ms", 1, "{:.1f}"),
    "refine_ms": ("refinement ms", 1, "{:.1f}"),
    "passes_speed_up": ("faster than the reference", 1, "{:.1f}×"),
    "image_speed_up": ("faster than the reference", 1, "{:.1f}×"),
    "seconds": ("seconds", 1, "{:.2f}"),
    "job_over_reference": ("× the reference", 1, "{:.2f}"),
    "kept_bytes": ("kept MB", 1e6, "{:.1f}"),
    "peak_bytes": ("peak MB", 1e6, "{:.1f}"),
    "gigabytes_per_s": ("GB/s", 1, "{:.2f}"),
    "bytes_floor_ms": ("bytes floor ms", 1, "{:.3f}"),
    "latency_floor_ms": ("latency floor ms", 1, "{:.2f}"),
    "times_floor": ("× larger floor", 1, "{:.1f}"),
    "agreement": ("same labels %", 0.01, "{:.3f}"),
    "note": ("note", 1, "{}"),
    "session": ("session", 1, "{}"),
}
"""Of the page: title, unit and form of every column."""

LEGEND = (
    "Medians of wall times, the device's queue emptied before and after; rows of one session and size were "
    "timed one after the other in one process. The reference is in italics. kept: memory held between the "
    "forward and the backward pass besides the inputs; peak: memory that both passes need at most besides "
    "the inputs, of a step of training all that it needs. A step is compared with one of the reference that "
    "was taken just before, each time; that of the reference itself shows what is chance. bytes "
    "floor: the time to copy what any version must move at the measured speed of a large copy; GB/s: these "
    "bytes over the measured time. latency floor: the steps that depend on each other, in the time that one "
    "of them takes in a single chain."
)


def write(folder: Path, journal: Journal) -> None:
    """Writes `<family>.csv` and the page into a folder.

    Args:
        folder: Where.
        journal: What was measured.
    """
    tables = {name: compared(rows) for name, rows in journal.families.items() if rows}
    leave_out = {"session"} if len(journal.sessions) == 1 else set()
    for name, rows in tables.items():
        with replacing(folder / f"{name}.csv") as file:
            pd.DataFrame(rows).assign(**journal.origin).to_csv(file, index=False)
    parts = ["# Kernels", _head(journal)]
    parts += [f"## {name}\n\n{markdown(rows, leave_out)}" for name, rows in tables.items()]
    with replacing(folder / PAGE) as file:
        file.write("\n\n".join([*parts, LEGEND]) + "\n")


def compared(rows: Sequence[Timing]) -> list[Timing]:
    """Rows, each compared with the reference of its place, where that was measured.

    A row is so many times as fast as what it replaces, or takes so much longer than another of ours.
    """
    references = {_place(row): row for row in rows if row["reference"]}
    return [row | _against(row, references.get(_place(row))) for row in rows]


def _place(row: Timing) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in PLACE)


def _against(row: Timing, reference: Timing | None) -> Timing:
    comparison: Timing = {}
    for name, parts in TIMES.items():
        if reference and all(part in x for part in parts for x in (row, reference)):
            own, other = (sum(x[part] for part in parts) for x in (row, reference))
            if reference["baseline"]:
                comparison[f"{name}_speed_up"] = other / own
            elif name == "job":
                comparison[f"{name}_over_reference"] = own / other
            else:
                comparison[f"{name}_over_ms"] = own - other
    return comparison


def _head(journal: Journal) -> str:
    """Where and when the rows were measured."""
    origin = journal.origin
    lines = [", ".join([origin["device"], *(f"{x} {origin[x]}" for x in origin if x != "device")])]
    lines += [_described(session) for session in journal.sessions]
    return "\n".join(f"- {line}" for line in lines)


def _described(session: Session) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in session.facts.items())
    return f"{session.started}: {facts}"


def markdown(rows: Sequence[Timing], leave_out: Collection[str] = ()) -> str:
    """The rows of a family as a table to read.

    Args:
        rows: As of `compared`.
        leave_out: Columns that are not shown.
    """
    rows = [_sized(row) for row in rows]
    table = [_cells(row) for row in rows]
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    titles = [COLUMNS[name][0] for name in columns if name not in leave_out]
    headers = [*dict.fromkeys(titles)]
    lines = [[cells.get(title, "") for title in headers] for cells in table]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def _sized(row: Timing) -> Timing:
    """A row with its size in one column, if it has one."""
    return row | {"size": ", ".join(str(row[side]) for side in "NKHW")} if "N" in row else row


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """What the page shows of a row, by title."""
    cells = {}
    for column, (title, unit, form) in COLUMNS.items():
        value = row.get(column)
        if value is not None:
            cells[title] = form.format(value if isinstance(value, str) else value / unit)
    if row["reference"]:
        cells["version"] = f"*{cells['version']}*"
    return cells
