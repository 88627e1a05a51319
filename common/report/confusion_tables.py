"""What is taken for what: confusion counts of methods, in a table and in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.report.sortable_tables import Column, SortableTable, TableRow, number, word
from common.scoring.counts import SplitCounts
from common.tables.results import Row


def pooled_confusion(rows: Iterable[Row]) -> dict[str, NDArray[np.int64]]:
    """Confusion counts `[K, K]` of every method, all images and seeds together, of files that can be read."""
    pooled: dict[str, NDArray[np.int64]] = {}
    for row in rows:
        for result in row.results:
            with contextlib.suppress(UserError):  # the gallery's note says so
                if result.metrics and result.run.per_image.exists():
                    counts = SplitCounts.read(result.run.per_image).total
                    pooled[row.method] = pooled[row.method] + counts if row.method in pooled else counts
    return pooled


def confusion_table(counts: NDArray[np.int64], names: Sequence[str], caption: str) -> SortableTable:
    """Confusion counts as percent of each class of the truth.

    Args:
        counts: `[K, K]`, rows are the truth.
        names: Of the classes.
        caption: Of the table.
    """
    shares = _shares(counts)
    table = SortableTable(caption, [Column("truth", words=True), *(Column(name) for name in names)])
    for row, name in enumerate(names):
        cells = [word(name)]
        for column in range(len(names)):
            share = shares[row, column]
            cell = number(share, 1)
            if cell.value is not None:
                cell.text = "" if share < 0.05 else cell.text
                cell.tone, cell.strength = ("plus" if row == column else "minus"), round(share / 100, 3)
            cells.append(cell)
        table.rows.append(TableRow(cells))
    return table


def confusions_text(counts: NDArray[np.int64], names: Sequence[str], most: int = 3) -> str:
    """The commonest confusions of classes in one sentence, empty without any.

    Args:
        counts: `[K, K]`, rows are the truth.
        names: Of the classes.
        most: How many are named at most.
    """
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
    """Confusion counts `[K, K]` as percent of each class of the truth; NaN for classes that do not occur."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(100.0 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
