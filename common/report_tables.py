"""The tables of the report: which columns they have, and how a number reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Line = Mapping[str, Any]

STRIKING = 10.0
"""Points of IoU at which the colour of a difference is fullest."""


@dataclass
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        value: What it is sorted by; None sorts last.
        note: A second, smaller line.
        tone: plus, minus, heat, or empty: which colour lies behind it.
        strength: How much of that colour, from 0 to 1.
    """

    text: str
    value: float | str | None = None
    note: str = ""
    tone: str = ""
    strength: float = 0.0


@dataclass
class Column:
    """One column.

    Attributes:
        title: Its heading.
        about: What it means, in a phrase.
        group: Columns of a group are shown and hidden together.
        words: Whether it has words rather than numbers.
        sorted: `ascending` or `descending` if the rows come in its order.
    """

    title: str
    about: str = ""
    group: str = ""
    words: bool = False
    sorted: str = ""


@dataclass
class Row:
    """One row: its heading, which is its first cell, and the others.

    Attributes:
        cells: One per column.
        method: The method it is about, for the filter.
        control: Whether it is a control, which no method is compared with.
    """

    cells: list[Cell]
    method: str = ""
    control: bool = False


@dataclass
class Table:
    """What the page shows as a sortable table."""

    caption: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """The groups of columns, in their order."""
        return list(dict.fromkeys(column.group for column in self.columns if column.group))


def number(value: float, digits: int, sign: str = "") -> Cell:
    """A number, or a dash for NaN."""
    if value is None or math.isnan(value):
        return Cell("–")
    return Cell(_digits(value, digits, sign), float(value))


def _digits(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def word(text: Any) -> Cell:
    """A word; nothing for None and NaN."""
    text = "" if text is None or (isinstance(text, float) and math.isnan(text)) else str(text)
    return Cell(text, text.lower() or None)


def interval(line: Line, mean: str, low: str, high: str, digits: int = 2, sign: str = "") -> Cell:
    """A number with its interval below it."""
    cell = number(_of(line, mean), digits, sign)
    ends = _of(line, low), _of(line, high)
    if cell.value is not None and not any(map(math.isnan, ends)):
        cell.note = " to ".join(_digits(end, digits, sign) for end in ends)
    return cell


def _of(line: Line, key: str) -> float:
    value = line.get(key)
    return math.nan if value is None else float(value)


# The leaderboard


@dataclass(frozen=True)
class _Shown:
    """A column of the leaderboard: the key of its value in the CSV file, and how it is shown."""

    key: str
    column: Column
    cell: Callable[[Line], Cell]


def _plain(key: str, title: str, about: str, group: str, digits: int, scale: float = 1.0) -> _Shown:
    return _Shown(key, Column(title, about, group), lambda line: number(_of(line, key) * scale, digits))


def _spread(name: str, title: str, about: str, group: str, digits: int = 2) -> _Shown:
    return _Shown(
        f"{name}_mean",
        Column(title, f"{about}; below it the 95 % interval over seeds", group),
        lambda line: interval(line, f"{name}_mean", f"{name}_low", f"{name}_high", digits),
    )


def _timed(name: str, title: str, about: str) -> _Shown:
    def cell(line: Line) -> Cell:
        found = number(_of(line, f"{name}_ms"), 1)
        slowest = _of(line, f"{name}_p95_ms")
        if found.value is not None and not math.isnan(slowest):
            found.note = f"95 %: {slowest:.1f}"
        return found

    return _Shown(f"{name}_ms", Column(title, about, "Inference"), cell)


def _difference(line: Line) -> Cell:
    if line.get("reading") == "baseline":
        return Cell("baseline", 0.0)
    cell = interval(line, "difference_mean", "difference_low", "difference_high", 2, "+")
    if not cell.note:
        cell = interval(line, "difference_mean", "images_low", "images_high", 2, "+")
        cell.note = cell.note and f"{cell.note}*"
    return cell


def _published(line: Line) -> Cell:
    cell = number(_of(line, "published"), 2)
    difference = _of(line, "published_difference")
    cell.note = "" if math.isnan(difference) else _digits(difference, 2, "+")
    return cell


def _leaderboard_columns(baseline: str) -> list[_Shown]:
    difference = (
        f"difference of mIoU to {baseline}, paired by seed; below it the interval over seeds and images, "
        "or with one seed, marked by *, over images alone"
    )
    detectable = "the smallest difference that these seeds and images show in 4 of 5 cases"
    gap = "how far the CRF's labelling is from the best one at most, per cell of the output grid"
    agreement = "the share of cells at which all chains of the CRF have the same best label"
    return [
        _plain(
            "rank",
            "rank",
            "by mIoU; those not shown to be worse than its best share one",
            "Accuracy",
            0,
        ),
        _spread("miou", "mIoU %", "mean over classes of intersection over union", "Accuracy"),
        _Shown("difference_mean", Column(f"Δ {baseline}", difference, "Accuracy"), _difference),
        _Shown(
            "reading",
            Column("reading", f"what the comparison with {baseline} shows", "Accuracy", words=True),
            lambda line: word(line.get("reading")),
        ),
        _plain("detectable", "could show", detectable, "Accuracy", 2),
        _spread("pixel_accuracy", "pixel acc. %", "share of labelled pixels that are right", "Accuracy"),
        _Shown(
            "seeds",
            Column("seeds", "how many seeds have scores", "Accuracy"),
            lambda line: number(math.nan if line.get("control") else _of(line, "seeds"), 0),
        ),
        _Shown(
            "published",
            Column("published %", "mIoU by others; below it, ours less theirs", "Accuracy"),
            _published,
        ),
        _spread("boundary_iou", "boundary IoU %", "IoU of the bands along boundaries", "Boundaries"),
        _spread("boundary_f", "boundary F %", "F-score of contours, within a tolerance", "Boundaries"),
        _timed("latency", "latency ms", "one image from pixels to probabilities, median"),
        _plain("network_ms", "network ms", "the network's part of the latency", "Inference", 1),
        _plain("structure_ms", "structure ms", "the part of structure inside the network", "Inference", 1),
        _plain("refine_ms", "refine ms", "the part of refinement after the network", "Inference", 1),
        _plain("throughput", "images/s", "at the best batch size", "Inference", 1),
        _plain("training_step_ms", "train step ms", "one step, without loading data", "Training", 1),
        _plain("training_images_per_second", "train images/s", "of these steps", "Training", 1),
        _plain("training_peak_memory", "train GB", "peak memory of the device", "Training", 2, 1e-9),
        _spread("ece", "ECE %", "calibration error: how far confidence is from accuracy", "Calibration"),
        _spread("nll", "NLL", "negative log-likelihood of the truth, nats per pixel", "Calibration", 3),
        _plain("parameters", "params M", "millions of parameters", "Size", 2, 1e-6),
        _plain(
            "multiply_adds",
            "mult-adds G",
            "billions for one image, without refinement",
            "Size",
            2,
            1e-9,
        ),
        _plain("gap_per_cell", "gap/cell", gap, "Certificate", 3),
        _plain("agreement", "agreement %", agreement, "Certificate", 1, 100),
    ]


def leaderboard(lines: pd.DataFrame, compared: pd.DataFrame, baseline: str, caption: str) -> Table:
    """The leaderboard of one dataset and model.

    Args:
        lines: Its lines of `leaderboard.csv`, best first. Columns without a value are left out.
        compared: Its lines of `comparisons.csv`.
        baseline: The method that the others are compared with.
        caption: Of the table.
    """
    over_images = compared.loc[compared["metric"] == "miou", ["method", "images_low", "images_high"]]
    lines = lines.merge(over_images, on="method", how="left")
    shown = [s for s in _leaderboard_columns(baseline) if s.key in lines and lines[s.key].notna().any()]
    table = Table(caption, [Column("method", words=True), *(s.column for s in shown)])
    for column in table.columns:
        column.sorted = "descending" if column.title == "mIoU %" else ""
    for line in lines.to_dict("records"):
        name = word(line["method"])
        if isinstance(line["error"], str):
            name.note = line["error"]
        cells = [name, *(shown_column.cell(line) for shown_column in shown)]
        table.rows.append(Row(cells, str(line["method"]), bool(line["control"])))
    return table


# Others


def comparisons(lines: pd.DataFrame, caption: str) -> Table:
    """Every comparison with the baseline, with each of its tests."""
    metrics = {"miou": "mIoU", "boundary_iou": "boundary IoU"}
    tests = {
        "images": ("over images", "bootstrap over test images, seeds as strata"),
        "seeds": ("over seeds", "paired t over seeds"),
        "": ("over both", "the two-level interval over seeds and images, which the reading goes by"),
    }
    table = Table(
        caption,
        [
            Column("method", words=True),
            Column("score", "what is compared", words=True),
            Column("difference", "in points; positive is better than the baseline"),
            *(Column(title, about) for title, about in tests.values()),
            Column("p (Holm)", "of the two-level interval, corrected for the number of methods"),
            Column("could show", "the smallest difference these seeds and images show in 4 of 5 cases"),
            Column("reading", words=True),
        ],
    )
    for line in lines.to_dict("records"):
        cells = [
            word(line["method"]),
            word(metrics.get(line["metric"], line["metric"])),
            number(_of(line, "difference"), 2, "+"),
        ]
        cells += [_test(line, f"{name}_" if name else "", f"_{name}" if name else "") for name in tests]
        reading = word(line["reading"])
        reading.note = word(line.get("note")).text
        cells += [number(_of(line, "p_holm"), 4), number(_of(line, "detectable"), 2), reading]
        table.rows.append(Row(cells, str(line["method"])))
    return table


def _test(line: Line, before: str, after: str) -> Cell:
    low, high, p = _of(line, f"{before}low"), _of(line, f"{before}high"), _of(line, f"p{after}")
    if math.isnan(low) or math.isnan(high):
        return Cell("–")
    return Cell(
        f"{_digits(low, 2, '+')} to {_digits(high, 2, '+')}", low, "" if math.isnan(p) else f"p = {p:.4f}"
    )


def per_class(
    lines: pd.DataFrame, methods: Sequence[str], controls: Collection[str], baseline: str, caption: str
) -> Table:
    """IoU of every class, coloured by the difference to the baseline, which controls have none to."""
    names = list(lines["class"].unique())
    values = lines.pivot(index="method", columns="class", values="iou_mean")
    table = Table(caption, [Column("method", words=True), *(Column(str(name)) for name in names)])
    for method in (m for m in methods if m in values.index):
        cells = [word(method)]
        for name in names:
            cell = number(values.loc[method, name], 1)
            compared = baseline in values.index and method not in (baseline, *controls)
            if compared and cell.value is not None:
                cell = _toned(cell, values.loc[method, name] - values.loc[baseline, name])
            cells.append(cell)
        table.rows.append(Row(cells, method, method in controls))
    return table


def _toned(cell: Cell, difference: float) -> Cell:
    if math.isnan(difference):
        return cell
    cell.note = _digits(difference, 1, "+")
    cell.tone = "plus" if difference > 0 else "minus"
    cell.strength = round(min(1.0, abs(difference) / STRIKING), 3)
    return cell


def confusion(counts: NDArray[np.int64], names: Sequence[str], caption: str) -> Table:
    """Confusion counts `[K, K]` as percent of each class of the truth."""
    shares = _shares(counts)
    table = Table(caption, [Column("truth", words=True), *(Column(name) for name in names)])
    for row, name in enumerate(names):
        cells = [word(name)]
        for column in range(len(names)):
            share = shares[row, column]
            cell = number(share, 1)
            if cell.value is not None:
                cell.text = "" if share < 0.05 else cell.text
                cell.tone, cell.strength = ("plus" if row == column else "minus"), round(share / 100, 3)
            cells.append(cell)
        table.rows.append(Row(cells))
    return table


def confusions(counts: NDArray[np.int64], names: Sequence[str], most: int = 3) -> str:
    """The commonest confusions of classes in one sentence."""
    shares = _shares(counts)
    np.fill_diagonal(shares, 0)
    shares = np.nan_to_num(shares)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, shares.shape) for place in order]
    return ", ".join(
        f"{names[row]} taken for {names[column]} ({shares[row, column]:.0f} %)"
        for row, column in pairs
        if shares[row, column] > 0
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(100.0 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def trimap(lines: pd.DataFrame, caption: str) -> Table:
    """The mIoU within bands of several widths around the truth's boundaries."""
    widths = sorted(lines["width"].unique())
    table = Table(caption, [Column("method", words=True), *(Column(f"{width:g} px") for width in widths)])
    for method, found in lines.groupby("method", sort=False):
        by_width = {line["width"]: line for line in found.to_dict("records")}
        cells = [interval(by_width.get(w, {}), "miou_mean", "miou_low", "miou_high", 1) for w in widths]
        control = bool(found["control"].any())
        table.rows.append(Row([word(method), *cells], str(method), control))
    return table


def diagnostics(found: Iterable[tuple[str, int, Mapping[str, float]]], caption: str) -> Table:
    """What methods say about their own results, per run: method, seed and named numbers."""
    found = list(found)
    keys = list(dict.fromkeys(key for *_, values in found for key in values))
    names = {"gap_per_cell": "gap/cell", "agreement": "agreement %"}
    scales = {"agreement": 100}
    table = Table(
        caption,
        [Column("method", words=True), Column("seed"), *(Column(names.get(key, key)) for key in keys)],
    )
    for method, seed, values in found:
        cells = [number(scales.get(key, 1) * values.get(key, math.nan), 3) for key in keys]
        table.rows.append(Row([word(method), number(seed, 0), *cells], method))
    return table
