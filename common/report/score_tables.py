"""Tables of the page beside the leaderboard: comparisons, classes, bands near boundaries, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from common.report.sortable_tables import (
    Cell,
    Column,
    SortableTable,
    TableRow,
    digits_text,
    interval,
    number,
    value_of,
    word,
)
from common.tables.frames import Line

STRIKING = 10.0
"""Points of IoU at which the colour of a difference is fullest."""


def comparison_table(lines: pd.DataFrame, caption: str) -> SortableTable:
    """Every comparison with the baseline, with each of its tests.

    Args:
        lines: Lines of `comparisons.csv`.
        caption: Of the table.
    """
    metrics = {"miou": "mIoU", "boundary_iou": "boundary IoU", "miou_i": "mIoU-I"}
    several = lines["model"].nunique() > 1
    tests = {
        "images": (
            "over images",
            "bootstrap over test images, in blocks where they belong together; seeds as strata",
        ),
        "seeds": ("over seeds", "paired t over seeds"),
        "": ("over both", "the two-level interval over seeds and images, which the reading goes by"),
    }
    table = SortableTable(
        caption,
        [
            Column("method", words=True),
            *([Column("model", words=True)] if several else []),
            Column("score", "what is compared", words=True),
            Column("difference", "in points; positive is better than the baseline"),
            *(Column(title, about) for title, about in tests.values()),
            Column("p (Holm)", "of the two-level interval, corrected for the number of the model's methods"),
            Column("could show", "the smallest difference these seeds and images show in 4 of 5 cases"),
            Column("reading", words=True),
        ],
    )
    for line in lines.to_dict("records"):
        cells = [
            word(line["method"]),
            *([word(line["model"])] if several else []),
            word(metrics.get(line["metric"], line["metric"])),
            number(value_of(line, "difference"), 2, "+"),
        ]
        cells += [_test(line, f"{name}_" if name else "", f"_{name}" if name else "") for name in tests]
        reading = word(line["reading"])
        reading.note = word(line.get("note")).text
        cells += [number(value_of(line, "p_holm"), 4), number(value_of(line, "detectable"), 2), reading]
        table.rows.append(TableRow(cells, line["method"], model=line["model"]))
    return table


def _test(line: Line, before: str, after: str) -> Cell:
    """The interval and the p of one test, from the names that its columns have before and after theirs."""
    low, high = value_of(line, f"{before}low"), value_of(line, f"{before}high")
    p = value_of(line, f"p{after}")
    if math.isnan(low) or math.isnan(high):
        return Cell("–")
    ends = f"{digits_text(low, 2, '+')} to {digits_text(high, 2, '+')}"
    return Cell(ends, low, "" if math.isnan(p) else f"p = {p:.4f}")


def class_table(
    lines: pd.DataFrame, methods: Sequence[str], controls: Collection[str], baseline: str, caption: str
) -> SortableTable:
    """IoU of every class, coloured by the difference to the baseline, which controls have none to.

    Args:
        lines: Lines of `per_class.csv`.
        methods: In the order of the rows.
        controls: Those of them that are controls.
        baseline: The method that the others are compared with.
        caption: Of the table.
    """
    names = list(lines["class"].unique())
    values = lines.pivot(index="method", columns="class", values="iou_mean")
    table = SortableTable(caption, [Column("method", words=True), *(Column(str(name)) for name in names)])
    for method in (m for m in methods if m in values.index):
        cells = [word(method)]
        for name in names:
            cell = number(values.loc[method, name], 1)
            compared = baseline in values.index and method not in (baseline, *controls)
            if compared and cell.value is not None:
                cell = _toned(cell, values.loc[method, name] - values.loc[baseline, name])
            cells.append(cell)
        table.rows.append(TableRow(cells, method, method in controls))
    return table


def _toned(cell: Cell, difference: float) -> Cell:
    """The cell with a difference below its number, and its colour."""
    if math.isnan(difference):
        return cell
    cell.note = digits_text(difference, 1, "+")
    cell.tone = "plus" if difference > 0 else "minus"
    cell.strength = round(min(1.0, abs(difference) / STRIKING), 3)
    return cell


def trimap_table(lines: pd.DataFrame, caption: str) -> SortableTable:
    """The mIoU within bands of several widths around the truth's boundaries.

    Args:
        lines: Lines of `trimap.csv`.
        caption: Of the table.
    """
    widths = sorted(lines["width"].unique())
    table = SortableTable(
        caption, [Column("method", words=True), *(Column(f"{width:g} px") for width in widths)]
    )
    for method, group in lines.groupby("method", sort=False):
        by_width = {line["width"]: line for line in group.to_dict("records")}
        cells = [interval(by_width.get(w, {}), "miou_mean", "miou_low", "miou_high", 1) for w in widths]
        control = bool(group["control"].any())
        table.rows.append(TableRow([word(method), *cells], str(method), control))
    return table


def diagnostics_table(runs: Sequence[tuple[str, int, Mapping[str, float]]], caption: str) -> SortableTable:
    """What methods say about their own results.

    Args:
        runs: Of every run the method, the seed and named numbers.
        caption: Of the table.
    """
    keys = list(dict.fromkeys(key for *_, values in runs for key in values))
    names = {"gap_per_cell": "gap/cell", "agreement": "agreement %"}
    scales = {"agreement": 100}
    table = SortableTable(
        caption,
        [Column("method", words=True), Column("seed"), *(Column(names.get(key, key)) for key in keys)],
    )
    for method, seed, values in runs:
        cells = [number(scales.get(key, 1) * values.get(key, math.nan), 3) for key in keys]
        table.rows.append(TableRow([word(method), number(seed, 0), *cells], method))
    return table
