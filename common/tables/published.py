"""Published numbers beside ours: `results/reference/published.csv`, with their sources.

A published number stands beside a row if dataset, split, architecture, backbone, output stride, the weight of
the auxiliary loss and the method with all its options are the same, the model is trained for as many
iterations, and images are scored at one scale and not mirrored, as published. Stems of three small
convolutions (timm's `d` and `s`) count as the same backbone: the published systems have them. Where a
publication does not say for how long it trained, its number stands beside no row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

import methods
from common.config.method_entry import MethodEntry
from common.config.method_facts import method_facts
from common.config.options import complete_options
from common.installation import ROOT
from common.runs.benchmark import Group
from common.tables.frames import Line, lines_of
from common.tables.results import Row

TABLE = ROOT / "results/reference/published.csv"

SCHEDULE = 0.02
"""By which share the iterations may differ: an epoch's last, smaller batch counts as one or is left out."""

Numbers = dict[tuple[str, str, str], pd.DataFrame]
"""By dataset, model and method what is published: columns `metric` (`miou` or `iou/<class>`), `value` in
percent and `source`, in the order of the file."""


def numbers(rows: Iterable[Row]) -> Numbers:
    """What is published about the rows of the leaderboard, of those about which there is something."""
    published = {}
    of_groups: dict[tuple[str, str], pd.DataFrame] = {}
    for row in rows:
        if row.group.key not in of_groups:
            of_groups[row.group.key] = _candidates(row.group)
        candidates = of_groups[row.group.key]
        if len(candidates) and row.entry and not _is_otherwise(row.entry):
            same = [_is(row.entry, label) for label in candidates["method"]]
            columns = candidates.loc[same, ["metric", "value", "source"]]
            published[row.key] = columns.reset_index(drop=True)
    return published


def _is_otherwise(entry: MethodEntry) -> bool:
    """Whether an entry is trained, scored or built in another way than its group, as far as that counts."""
    others = (entry.evaluation, entry.model, entry.start, entry.ensemble, "iterations" in entry.training)
    return any(others)


def _candidates(group: Group) -> pd.DataFrame:
    """What is published of a dataset and model as they are scored here, of any method."""
    architecture, _, backbone = group.model.partition("-")
    known, options = _read(TABLE), group.controls[0].model_options
    if group.evaluation.scales != (1,) or group.evaluation.flip:
        return known.iloc[:0]
    iterations = group.training.iterations
    return known[
        (known["dataset"] == type(group.data.dataset).__module__.rpartition(".")[2])
        & (known["split"] == group.evaluation.split)
        & (known["architecture"] == architecture)
        & (known["backbone"] == _plain(backbone))
        & (known["output_stride"] == options.output_stride)
        & (known["auxiliary_weight"] == options.auxiliary_weight)
        & ((known["iterations"] - iterations).abs() <= SCHEDULE * iterations)
        & (known["unit"] == "percent")
    ]


def beside(leaderboard: pd.DataFrame, published: Numbers) -> pd.DataFrame:
    """The leaderboard with `published`, `published_difference` (ours less theirs) and `published_source`.

    Where several sources have a number the first one in the file counts.
    """
    theirs = [_first(published, line, "miou") for line in lines_of(leaderboard)]
    return _with_columns(leaderboard, theirs, "miou_mean")


def beside_classes(per_class: pd.DataFrame, published: Numbers) -> pd.DataFrame:
    """The table of classes with the same columns as `beside`."""
    theirs = [_first(published, line, f"iou/{line['class']}") for line in lines_of(per_class)]
    return _with_columns(per_class, theirs, "iou_mean")


def cells(line: Line) -> dict[str, str]:
    """What people read of it in one line of the leaderboard."""
    if math.isnan(line["published"]):
        return {"published %": "–", "Δ published": "–"}
    difference = line["published_difference"]
    shown = "–" if math.isnan(difference) else f"{difference:+.2f}"
    return {"published %": f"{line['published']:.2f}", "Δ published": shown}


def class_columns(per_class: pd.DataFrame, pivot: pd.DataFrame) -> pd.DataFrame:
    """The classes' table as people read it, with what is published behind every method that has some.

    Args:
        per_class: The table of classes of one dataset and model, from `beside_classes`.
        pivot: Texts, one line per class and one column per method.
    """
    for method, lines in per_class[per_class["published"].notna()].groupby("method", sort=False):
        values = {
            line["class"]: f"{line['published']:.1f} ({line['published_difference']:+.1f})"
            for line in lines_of(lines)
        }
        place = pivot.columns.get_loc(method) + 1
        pivot.insert(place, f"{method} published (Δ)", [values.get(name, "–") for name in pivot.index])
    return pivot


def sources(published: Numbers, leaderboard: pd.DataFrame) -> list[str]:
    """One line of text per source of numbers about lines of the leaderboard; not only the first of each."""
    values: dict[str, list[str]] = {}
    for line in lines_of(leaderboard):
        numbers = published.get(_key(line))
        if numbers is None:
            continue
        for number in lines_of(numbers[numbers["metric"] == "miou"]):
            values.setdefault(number["source"], []).append(f"{line['method']} {number['value']:.2f}")
    return [f"- {source}: {', '.join(texts)}" for source, texts in values.items()]


@cache
def _read(path: Path) -> pd.DataFrame:
    """The file of published numbers, which is read once."""
    return pd.read_csv(path)


def _key(line: Line) -> tuple[str, str, str]:
    """Dataset, model and method of a line."""
    return line["dataset"], line["model"], line["method"]


def _first(published: Numbers, line: Line, metric: str) -> tuple[float, str]:
    """The first value of a metric and its source; NaN and nothing without any."""
    numbers = published.get(_key(line))
    if numbers is None or metric not in set(numbers["metric"]):
        return math.nan, ""
    first = numbers[numbers["metric"] == metric].iloc[0]
    return first["value"], first["source"]


def _with_columns(table: pd.DataFrame, theirs: Sequence[tuple[float, str]], ours: str) -> pd.DataFrame:
    """A table with the columns of published numbers.

    Args:
        table: The table.
        theirs: Per line the published number in percent and its source.
        ours: The column that it is compared with.
    """
    values = pd.Series([value for value, _ in theirs], index=table.index, dtype=float)
    return table.assign(
        published=values,
        published_difference=table[ours].astype(float) - values,
        published_source=[source for _, source in theirs],
    )


def _plain(backbone: str) -> str:
    """`resnet101` for all its stems and weights, as in tu-resnet101s.gluon_in1k."""
    name = backbone.removeprefix("tu-").partition(".")[0]
    return re.sub(r"^(resnet\d+)[ds]$", r"\1", name)


def _is(entry: MethodEntry, label: str) -> bool:
    """Whether a method entry is what a publication is listed under.

    Args:
        entry: The entry.
        label: A module of `methods/`, with those options in parentheses that are not its defaults.
    """
    name, _, listed = label.rstrip(")").partition("(")
    if name not in methods.names():
        return False
    options = {key: yaml.safe_load(value) for key, value in re.findall(r"(\w+)=([^;]+)", listed)}
    facts = method_facts(name)
    defaults = complete_options(name, {}, facts.options)
    return (entry.module, entry.options, entry.trained_as) == (name, defaults | options, facts.trained_as)
