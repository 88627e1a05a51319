"""Published numbers beside ours: `results/reference/published.csv`, with their sources.

A published number stands beside a row if dataset, split, architecture, backbone, output stride and the method
with all its options are the same, and images are scored at one scale and not mirrored, as published. Stems of
three small convolutions (timm's `d` and `s`) count as the same backbone: the published systems have them.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import methods
from common import config as configuration
from common.config import Config

TABLE = Path(__file__).resolve().parent.parent / "results/reference/published.csv"


def find(config: Config, dataset: str, model: str, method: str) -> pd.DataFrame:
    """What is published about a row of the leaderboard.

    Args:
        config: The configuration.
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry.

    Returns:
        Columns `metric` (`miou` or `iou/<class>`), `value` in percent and `source`, in the order of the file.
    """
    found = _candidates(config, dataset, model)
    if method not in config["methods"]:  # a control
        found = found.iloc[:0]
    same = [_is(config, dataset, method, label) for label in found["method"]]
    return found.loc[same, ["metric", "value", "source"]].reset_index(drop=True)


def _candidates(config: Config, dataset: str, model: str) -> pd.DataFrame:
    """What is published of a dataset and model as they are scored here, of any method."""
    settings = configuration.settings(config, "evaluation", dataset, model)
    architecture, _, backbone = model.partition("-")
    known = _read(TABLE)
    found = known[
        (known["dataset"] == configuration.dataset_module(config, dataset))
        & (known["split"] == settings["split"])
        & (known["architecture"] == architecture)
        & (known["backbone"] == _plain(backbone))
        & (known["output_stride"] == config["model_options"][model]["output_stride"])
        & (known["unit"] == "percent")
    ]
    if settings["scales"] != [1] or settings["flip"]:
        found = found.iloc[:0]
    return found


def _found(config: Config, table: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """What `find` says about the lines of a table, of those about which there is something."""
    found = {}
    for pair, lines in table.groupby(["dataset", "model"], sort=False):
        if len(_candidates(config, *pair)):
            found |= {(*pair, method): find(config, *pair, method) for method in lines["method"].unique()}
    return found


def beside(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with `published`, `published_difference` (ours less theirs) and `published_source`.

    Where several sources have a number the first one in the file counts.
    """
    known = _found(config, table)
    found = [_first(known, line, "miou") for line in table.to_dict("records")]
    return _with_columns(table, found, "miou_mean")


def beside_classes(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """The table of classes with the same columns as `beside`."""
    known = _found(config, table)
    found = [_first(known, line, f"iou/{line['class']}") for line in table.to_dict("records")]
    return _with_columns(table, found, "iou_mean")


def cells(line: dict[str, Any]) -> dict[str, str]:
    """What people read of it in one line of the leaderboard."""
    if math.isnan(line["published"]):
        return {"published %": "–", "Δ published": "–"}
    difference = line["published_difference"]
    shown = "–" if math.isnan(difference) else f"{difference:+.2f}"
    return {"published %": f"{line['published']:.2f}", "Δ published": shown}


def class_columns(table: pd.DataFrame, pivot: pd.DataFrame) -> pd.DataFrame:
    """The classes' table as people read it, with what is published behind every method that has some.

    Args:
        table: The table of classes of one dataset and model, from `beside_classes`.
        pivot: Texts, one line per class and one column per method.
    """
    for method, lines in table[table["published"].notna()].groupby("method", sort=False):
        values = {
            line["class"]: f"{line['published']:.1f} ({line['published_difference']:+.1f})"
            for line in lines.to_dict("records")
        }
        place = pivot.columns.get_loc(method) + 1
        pivot.insert(place, f"{method} published (Δ)", [values.get(name, "–") for name in pivot.index])
    return pivot


def sources(config: Config, table: pd.DataFrame) -> list[str]:
    """One line of text per source of numbers about lines of the leaderboard; not only the first of each."""
    numbers: dict[str, list[str]] = {}
    for (*_, method), found in _found(config, table).items():
        for _, metric, value, source in found.itertuples():
            if metric == "miou":
                numbers.setdefault(source, []).append(f"{method} {value:.2f}")
    return [f"- {source}: {', '.join(values)}" for source, values in numbers.items()]


@cache
def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def _key(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["dataset"], line["model"], line["method"]


def _first(
    known: dict[tuple[str, str, str], pd.DataFrame], line: dict[str, Any], metric: str
) -> tuple[float, str]:
    found = known.get(_key(line))
    if found is None:
        return math.nan, ""
    found = found[found["metric"] == metric]
    return (found["value"].iloc[0], found["source"].iloc[0]) if len(found) else (math.nan, "")


def _with_columns(table: pd.DataFrame, found: list[tuple[float, str]], ours: str) -> pd.DataFrame:
    published = pd.Series([value for value, _ in found], index=table.index, dtype=float)
    return table.assign(
        published=published,
        published_difference=table[ours].astype(float) - published,
        published_source=[source for _, source in found],
    )


def _plain(backbone: str) -> str:
    """`resnet101` for all its stems and weights, as in tu-resnet101s.gluon_in1k."""
    name = backbone.removeprefix("tu-").partition(".")[0]
    return re.sub(r"^(resnet\d+)[ds]$", r"\1", name)


def _is(config: Config, dataset: str, method: str, label: str) -> bool:
    """Whether a method entry is what a publication calls `label`, such as ce, crf-5 or rmi(radius=2)."""
    name, _, listed = label.rstrip(")").partition("(")
    options = {key: yaml.safe_load(value) for key, value in re.findall(r"(\w+)=([^;]+)", listed)}
    refined = re.fullmatch(r"crf-(\d+)", name)
    if refined:
        name, options = "densecrf", {"iterations": int(refined[1])}
    if name not in methods.names():
        return False
    entry = configuration.method(config, method, dataset)
    plain = configuration.method(config | {"method_options": {}}, name, dataset)
    theirs = (name, plain.options | options, plain.trained_as)
    return (entry.module, entry.options, entry.trained_as) == theirs
