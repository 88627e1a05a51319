"""Tables of the page: cells, columns, rows, and how a number reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from common.tables.frames import Line


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


@dataclass(frozen=True)
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
class TableRow:
    """One row: its heading, which is its first cell, and the others.

    Attributes:
        cells: One per column.
        method: The method it is about, for the filter.
        control: Whether it is a control, which no method is compared with.
        model: The model it is about, for the filter.
    """

    cells: list[Cell]
    method: str = ""
    control: bool = False
    model: str = ""


@dataclass
class SortableTable:
    """What the page shows as a sortable table.

    Attributes:
        caption: Above it.
        columns: The headings; the first is that of the rows' headings.
        rows: One per line.
    """

    caption: str
    columns: list[Column]
    rows: list[TableRow] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """The groups of columns, in their order."""
        return list(dict.fromkeys(column.group for column in self.columns if column.group))


def number(value: float | None, digits: int, sign: str = "") -> Cell:
    """A number, or a dash for None and NaN."""
    if value is None or math.isnan(value):
        return Cell("–")
    return Cell(digits_text(value, digits, sign), float(value))


def digits_text(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits behind the point, and a true minus sign."""
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def word(text: Any) -> Cell:
    """A word; nothing for None and NaN."""
    text = "" if text is None or (isinstance(text, float) and math.isnan(text)) else str(text)
    return Cell(text, text.lower() or None)


def interval(line: Line, mean: str, low: str, high: str, digits: int = 2, sign: str = "") -> Cell:
    """A number with its interval below it.

    Args:
        line: The line of a table of numbers.
        mean: The name of the number.
        low: That of the lower end of its interval.
        high: That of the upper end.
        digits: How many stand behind the point.
        sign: `+` for numbers that always have a sign.
    """
    cell = number(value_of(line, mean), digits, sign)
    ends = value_of(line, low), value_of(line, high)
    if cell.value is not None and not any(map(math.isnan, ends)):
        cell.note = " to ".join(digits_text(end, digits, sign) for end in ends)
    return cell


def value_of(line: Line, key: str) -> float:
    """A number of a line; NaN if it has none."""
    value = line.get(key)
    return math.nan if value is None else float(value)
