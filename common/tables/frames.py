"""All tables of a benchmark as data frames, and the CSV files that they are kept in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import replacing

TEXTS = (
    *("dataset", "model", "method", "class", "reading", "note", "error", "device"),
    *("latency_doubt", "training_doubt", "doubt", "uncounted", "recipes", "digest", "differs"),
    *("kind", "budget_of", "place", "tuned", "scored_on", "origin"),
)
"""Columns that hold words."""


Line = dict[str, Any]
"""A line of a table, by the names of its columns."""


def lines_of(table: pd.DataFrame) -> list[Line]:
    """The lines of a table: as of `to_dict("records")`, which takes ten times as long for so many columns."""
    columns = [*table.columns]
    return [dict(zip(columns, values)) for values in table.to_numpy(dtype=object).tolist()]


@dataclass(frozen=True)
class Tables:
    """The tables of numbers; every one has the columns `dataset` and `model`.

    Attributes:
        leaderboard: One line per method and control.
        comparisons: One line per comparison with the baseline.
        per_class: One line per method or control and class.
        trimap: One line per method or control and width of the band.
        calibration: One line per method and bin of confidence.
        cost: One line per method and device.
        budgets: One line per budget of a cost and method that is best for no more, or shares that.
        other_results: One line per result that lies here and is not of the configuration.
    """

    leaderboard: pd.DataFrame
    comparisons: pd.DataFrame
    per_class: pd.DataFrame
    trimap: pd.DataFrame
    calibration: pd.DataFrame
    cost: pd.DataFrame
    budgets: pd.DataFrame
    other_results: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """The names of all tables, as in those of their files."""
        return [field.name for field in dataclasses.fields(self)]

    def _named(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Every table with its name."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    def of(self, dataset: str, model: str | None = None) -> Tables:
        """The lines about one dataset and model, or about all models of a dataset."""
        kept = {}
        for name, table in self._named():
            wanted = table["dataset"] == dataset
            kept[name] = table[wanted if model is None else wanted & (table["model"] == model)]
        return Tables(**kept)

    def write(self, folder: Path) -> None:
        """Writes one CSV file per table, each whole or not at all."""
        for name, table in self._named():
            with replacing(folder / f"{name}.csv") as file:
                file.write(_guarded(table).to_csv(index=False))

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """The tables that the tabulate stage wrote."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: read_csv(folder / f"{name}.csv") for name in names})


def read_csv(path: Path) -> pd.DataFrame:
    """A table; words stay words, as a class may be called None or NA."""
    words = dict.fromkeys(TEXTS, "object")
    table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values=[""])
    return _words_replaced(table, r"^'(?='*[=+\-@\t\r])", "")


def _guarded(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which no word is a formula to a spreadsheet: what begins like one gets a quote before it."""
    return _words_replaced(table, r"^(?='*[=+\-@\t\r])", "'")


def _words_replaced(table: pd.DataFrame, pattern: str, replacement: str) -> pd.DataFrame:
    words = [name for name in TEXTS if name in table.columns]
    return table.assign(**{name: table[name].replace(pattern, replacement, regex=True) for name in words})
