"""Lists of images, as editors and spreadsheets on any system write them."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator

ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # it begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and what they mean."""


def lines(content: bytes) -> list[tuple[int, str]]:
    """The number and text of every line that is not blank.

    Args:
        content: The file: UTF-8, or UTF-16 or UTF-32 with or without a byte order mark.

    Raises:
        UnicodeDecodeError: It is no such text.
    """
    text = content.decode(_encoding(content))
    split = re.split(r"\r\n|\n|\r", text)  # str.splitlines splits at signs that may be in a name
    return [(number, line.strip()) for number, line in enumerate(split, 1) if line.strip()]


def _encoding(content: bytes) -> str:
    """What the bytes of a text are encoded in."""
    for mark, encoding in ENCODINGS:
        if content.startswith(mark):
            return encoding
    if b"\0" in content[:1000]:  # no UTF-8 of names has it; in UTF-16 every Latin letter has
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    return "utf-8"


def unquoted(text: str) -> str:
    """A text without the quotes that a spreadsheet puts around it."""
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        return text[1:-1]
    return text


def columns(text: str) -> Iterator[tuple[str, str]]:
    """All ways to read a line as two columns: at a tab, at a comma, at a space; each the last first."""
    for delimiter in "\t,":
        cells = next(csv.reader([text], delimiter=delimiter, strict=False), [])
        if len(cells) == 2 and all(cell.strip() for cell in cells):
            yield cells[0].strip(), cells[1].strip()
    for delimiter in (r"\s*,\s*", r"\s+"):
        for gap in reversed(list(re.finditer(delimiter, text))):
            first, second = text[: gap.start()], text[gap.end() :]
            if first and second and "\t" not in first + second:
                yield first, second
