"""The leaderboard as the page shows it: which columns it has, and how their cells are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class ShownColumn:
    """A column of the leaderboard: where its values come from, and how they are shown.

    Attributes:
        key: The column of the CSV file; without a value there, it is left out.
        column: Its heading.
        cell: Makes its cell in a line.
    """

    key: str
    column: Column
    cell: Callable[[Line], Cell]


def leaderboard(lines: pd.DataFrame, compared: pd.DataFrame, baseline: str, caption: str) -> SortableTable:
    """The leaderboard of a dataset over all models, best first; what else costs buy and controls come last.

    Args:
        lines: Its lines of `leaderboard.csv`. Columns without a value are left out.
        compared: Its lines of `comparisons.csv`.
        baseline: The method that the others are compared with.
        caption: Of the table.
    """
    key = ["model", "method"]
    over_images = compared.loc[compared["metric"] == "miou", [*key, "images_low", "images_high"]]
    lines = _best_first(lines).merge(over_images, on=key, how="left")
    columns = (*_accuracy(baseline), *_OTHERS)
    shown = [s for s in columns if s.key in lines and lines[s.key].notna().any()]
    if {*lines.get("kind", [])} <= {"method", "control"}:
        shown = [s for s in shown if s.key != "kind"]
    if lines["model"].nunique() > 1:
        shown.insert(0, _worded("model", "model", "architecture and backbone", ""))
    table = SortableTable(caption, [Column("method", words=True), *(s.column for s in shown)])
    for line in lines.to_dict("records"):
        name = word(line["method"])
        if isinstance(line["error"], str):
            name.note = line["error"]
        cells = [name, *(column.cell(line) for column in shown)]
        table.rows.append(TableRow(cells, line["method"], bool(line["control"]), line["model"]))
    return table


def _best_first(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of all models in one order, kinds apart, as those of one model are."""
    if lines["model"].nunique() < 2:
        return lines
    kinds = lines["kind"].map({"method": 0, "alternative": 1, "control": 2})
    keys = pd.DataFrame({"kind": kinds, "worse": -lines["miou_mean"]})  # without a score comes last
    return lines.loc[keys.sort_values(["kind", "worse"], kind="stable").index]


def _plain(key: str, title: str, about: str, group: str, digits: int, scale: float = 1.0) -> ShownColumn:
    """A number of its own."""
    column = Column(title, about, group)
    return ShownColumn(key, column, lambda line: number(value_of(line, key) * scale, digits))


def _marked(shown: ShownColumn, reason: str, mark: str = "~") -> ShownColumn:
    """A column whose cells have a mark where another column has a reason for one."""

    def marked(line: Line) -> Cell:
        """The cell of a line."""
        cell = shown.cell(line)
        if cell.value is not None and isinstance(line.get(reason), str) and line[reason]:
            cell.text = f"{mark}{cell.text}"
        return cell

    return replace(shown, cell=marked)


def _worded(key: str, title: str, about: str, group: str) -> ShownColumn:
    """A word of its own."""
    return ShownColumn(key, Column(title, about, group, words=True), lambda line: word(line.get(key)))


def _calibrated(line: Line) -> Cell:
    """The calibration error, and whether it is that of what a rule decides labels by."""
    cell = interval(line, "ece_mean", "ece_low", "ece_high", 2)
    if line.get("decides") is True:
        cell.note = f"{cell.note}, of the input".removeprefix(", ")
    return cell


def _spread(name: str, title: str, about: str, group: str, digits: int = 2, order: str = "") -> ShownColumn:
    """A mean with its interval over seeds."""
    return ShownColumn(
        f"{name}_mean",
        Column(title, f"{about}; below it the 95 % interval over seeds", group, sorted=order),
        lambda line: interval(line, f"{name}_mean", f"{name}_low", f"{name}_high", digits),
    )


def _timed(name: str, doubt: str, title: str, about: str, group: str) -> ShownColumn:
    """A time with the quartiles of its repeated timings, and why it is not to be relied on.

    Args:
        name: The column of the CSV file without `_ms`.
        doubt: The column that says why it is doubtful.
        title: The heading.
        about: What it is.
        group: Of columns.
    """

    def timing(line: Line) -> Cell:
        """The cell of a line."""
        cell = number(value_of(line, f"{name}_ms"), 1)
        low, high = value_of(line, f"{name}_q1_ms"), value_of(line, f"{name}_q3_ms")
        if cell.value is None or math.isnan(low):
            return cell
        cell.note = f"{low:.1f} to {high:.1f}"
        if isinstance(line.get(doubt), str) and line[doubt]:
            cell.text, cell.note = f"~{cell.text}", f"{cell.note}, {line[doubt]}"
        return cell

    about = f"{about}, median; below it the quartiles of the repeated timings"
    return ShownColumn(f"{name}_ms", Column(title, about, group), timing)


def _difference(line: Line) -> Cell:
    """The difference to the baseline, and below it the interval over seeds and images, or images alone."""
    if line.get("reading") == "baseline":
        return Cell("baseline", 0.0)
    cell = interval(line, "difference_mean", "difference_low", "difference_high", 2, "+")
    if not cell.note:
        cell = interval(line, "difference_mean", "images_low", "images_high", 2, "+")
        cell.note = cell.note and f"{cell.note}*"
    return cell


def _published(line: Line) -> Cell:
    """What is published, with ours less theirs below it."""
    cell = number(value_of(line, "published"), 2)
    difference = value_of(line, "published_difference")
    cell.note = "" if math.isnan(difference) else digits_text(difference, 2, "+")
    return cell


def _seeds(line: Line) -> Cell:
    """How many seeds there are, which controls have none of."""
    return number(math.nan if line.get("control") else value_of(line, "seeds"), 0)


def _accuracy(baseline: str) -> list[ShownColumn]:
    """The columns of accuracy, which have the baseline's name in them."""
    rank = "by mIoU within a model; those not shown to be worse than its best share one"
    miou = "mean over classes of intersection over union"
    difference = (
        f"difference of mIoU to {baseline} of the same model, paired by seed; below it the interval over "
        "seeds and images, or with one seed, marked by *, over images alone"
    )
    detectable = "the smallest difference that these seeds and images show in 4 of 5 cases"
    pixels = "share of labelled pixels that are right"
    reading = Column("reading", f"what the comparison with {baseline} shows", "Accuracy", words=True)
    published = Column("published %", "mIoU by others; below it, ours less theirs", "Accuracy")
    kind = "a method, or what else its cost would buy"
    tuned = "candidates and budget (in whole trainings) of the search that has chosen the settings"
    return [
        _spread("miou", "mIoU %", miou, "Accuracy", order="descending"),
        ShownColumn("difference_mean", Column(f"Δ {baseline}", difference, "Accuracy"), _difference),
        ShownColumn("reading", reading, lambda line: word(line.get("reading"))),
        _worded("kind", "kind", kind, "Accuracy"),
        _plain("rank", "rank", rank, "Accuracy", 0),
        _plain("detectable", "could show", detectable, "Accuracy", 2),
        _spread("pixel_accuracy", "pixel acc. %", pixels, "Accuracy"),
        ShownColumn("seeds", Column("seeds", "how many seeds have scores", "Accuracy"), _seeds),
        ShownColumn("published", published, _published),
        _worded("tuned", "tuned", tuned, "Accuracy"),
    ]


_OBJECTS = "Images and objects"
_MIOU_I = "mean over images of the mean IoU over the classes in the image's truth"
_MIOU_C = "mean over classes of the mean IoU over the images that have the class"
_RECALL = "share of right pixels in connected parts of the truth of"
_MULTIPLY_ADDS = "billions for one image, of network and structure; ≥: not all operations are counted"
_LATENCY = "one image from pixels to probabilities"
_GAP = "how far the CRF's labelling is from the best one at most, per cell of the output grid"
_AGREEMENT = "the share of cells at which all chains of the CRF have the same best label"
_ECE = "calibration error: how far confidence is from accuracy; below it the 95 % interval over seeds"
_NLL = "negative log-likelihood of the truth, nats per pixel"

_OTHERS = (
    _spread("boundary_iou", "boundary IoU %", "IoU of the bands along boundaries", "Boundaries"),
    _spread("boundary_f", "boundary F %", "F-score of contours, within a tolerance", "Boundaries"),
    _spread("miou_i", "mIoU-I %", _MIOU_I, _OBJECTS),
    _spread("miou_c", "mIoU-C %", _MIOU_C, _OBJECTS),
    _spread("worst_quarter", "worst quarter %", "mIoU-I of the images where it is lowest", _OBJECTS),
    _spread("worst_class", "worst class %", "the lowest IoU of a class", _OBJECTS),
    _spread("recall_small", "small %", f"{_RECALL} less than 32² pixels", _OBJECTS, 1),
    _spread("recall_medium", "medium %", f"{_RECALL} 32² to 96² pixels", _OBJECTS, 1),
    _spread("recall_large", "large %", f"{_RECALL} 96² pixels or more", _OBJECTS, 1),
    _timed("latency", "latency_doubt", "latency ms", _LATENCY, "Inference"),
    _marked(
        _plain("latency_p95_ms", "p95 ms", "the 95th percentile of the latency", "Inference", 1),
        "latency_doubt",
    ),
    _marked(
        _plain("network_ms", "network ms", "the network's part of the latency", "Inference", 1),
        "latency_doubt",
    ),
    _plain("structure_ms", "structure ms", "the part of structure inside the network", "Inference", 1),
    _plain("refine_ms", "refine ms", "the part of refinement after the network", "Inference", 1),
    _marked(_plain("throughput", "images/s", "at the best batch size", "Inference", 1), "latency_doubt"),
    _timed("training_step", "training_doubt", "train step ms", "one step, without loading data", "Training"),
    _marked(
        _plain(
            "training_minutes", "train min", "all steps, with all that the row started from", "Training", 2
        ),
        "training_doubt",
    ),
    _marked(
        _plain("training_images_per_second", "train images/s", "of these steps", "Training", 1),
        "training_doubt",
    ),
    _plain("training_peak_memory", "train GB", "peak memory of the device", "Training", 2, 1e-9),
    ShownColumn("ece_mean", Column("ECE %", _ECE, "Calibration"), _calibrated),
    _spread("nll", "NLL", _NLL, "Calibration", 3),
    _plain("parameters", "params M", "millions of parameters", "Size", 2, 1e-6),
    _marked(_plain("multiply_adds", "mult-adds G", _MULTIPLY_ADDS, "Size", 2, 1e-9), "uncounted", "≥ "),
    _plain("gap_per_cell", "gap/cell", _GAP, "Certificate", 3),
    _plain("agreement", "agreement %", _AGREEMENT, "Certificate", 1, 100),
)
"""The columns behind those of accuracy."""
