"""Which classes label maps show: their values or colours, and what files beside them call these."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.images.decoding import decode, header
from common.images.palette import Colour
from common.labels import VOID

READ = 300
"""So many label maps are read at most."""

LEGENDS = re.compile(r"class|label|legend|names|categor", re.IGNORECASE)
"""What files are called that name classes."""


@dataclass(frozen=True)
class Classes:
    """What label maps show.

    Attributes:
        options: The options of `folder` that say so.
        notes: What was guessed, in sentences.
    """

    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def classes(root: Path, label_maps: Sequence[Path]) -> Classes:
    """Reads label maps, spread evenly, and what is written beside them.

    Raises:
        UserError: One cannot be read, or they show more classes than there may be.
    """
    chosen = (
        [label_maps[i * len(label_maps) // READ] for i in range(READ)]
        if len(label_maps) > READ
        else label_maps
    )
    counts: Counter[Any] = Counter()
    by_colour = False
    for path in chosen:
        pixels = decode(path, labels=True).pixels
        if pixels.ndim == 2:
            values, numbers = np.unique(pixels, return_counts=True)
            counts.update(dict(zip(map(int, values), numbers.tolist())))
        else:
            by_colour = True
            colours, numbers = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0, return_counts=True)
            counts.update(dict(zip(map(tuple, colours[:, :3].tolist()), numbers.tolist())))
    if len(counts) > VOID:
        raise UserError(
            f"--data: the label maps show {len(counts)} values, and {VOID} classes are the most: are they "
            "photographs, or saved with soft edges?"
        )
    note = f"read from {len(chosen)} of {len(label_maps)} label maps"
    named = _legend(root)
    shown = _coloured(counts, named) if by_colour else _numbered(counts, named, chosen)
    return Classes(shown.options, [note, *shown.notes])


def _numbered(
    counts: Counter[int], named: Sequence[tuple[str, Colour | None]], maps: Iterable[Path]
) -> Classes:
    """The options for label maps of values."""
    values = sorted(counts)
    if any(value < 0 or value > VOID for value in values):
        raise UserError(f"--data: the label maps have the value {values[-1]}: labels are 0 to {VOID}")
    options: dict[str, Any] = {}
    notes = []
    if values == [0, VOID]:
        options = {"class_names": ["background", "object"], "values": values, "void": []}
        return Classes(options, ["label maps of 0 and 255 were taken for background and one class"])
    if VOID in values:
        values.remove(VOID)
        notes.append("255 was taken for void, which is neither trained nor scored")
    fitting = len(named) > max(values)
    if fitting:
        values = list(range(len(named)))
        options["class_names"] = [name for name, _ in named]
    else:
        options["class_names"] = [f"class {value}" for value in values]
        notes.append("nothing names the classes: write what they are")
    if values != list(range(len(values))):
        options |= {"values": values, "void": [VOID]}
    palette = next((head.palette for head in map(header, maps) if head.palette is not None), None)
    if fitting and all(colour for _, colour in named):
        options["colours"] = [list(colour) for _, colour in named if colour]
    elif palette is not None and len(palette) > max(values):
        options["colours"] = palette[values].tolist()
    return Classes(options, notes)


def _coloured(counts: Counter[Colour], named: Sequence[tuple[str, Colour | None]]) -> Classes:
    """The options for label maps that are drawn in colours."""
    names = {colour: name for name, colour in named if colour}
    colours = [colour for colour, _ in counts.most_common()]
    notes = ["a colour that is no class belongs into void_colours"]
    if names and {*colours} <= {*names}:
        colours = list(names)
    elif names:
        notes.append("some colours are not named in the file that names others")
    else:
        notes.append("nothing names the colours: write what they are")
    return Classes(
        {
            "class_names": [
                names.get(colour, f"colour {colour[0]} {colour[1]} {colour[2]}") for colour in colours
            ],
            "colours": [list(colour) for colour in colours],
            "colour_coded": True,
        },
        notes,
    )


def _legend(root: Path) -> list[tuple[str, Colour | None]]:
    """The classes that a file in the folder names, a line each, with their colours if it has them.

    A line is a name, or a name and a colour in three columns, in either order.
    """
    for path in sorted([*root.glob("*"), *root.glob("*/*")]):
        if path.suffix.lower() in (".txt", ".csv", ".names") and LEGENDS.search(path.stem) and path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            rows = [row for row in map(_row, text.splitlines()) if row]
            if rows and len({name for name, _ in rows}) == len(rows) <= VOID:
                return rows
    return []


def _row(line: str) -> tuple[str, Colour | None] | None:
    """A class of a legend, if a line names one."""
    cells = [cell.strip() for cell in next(csv.reader([line.replace("\t", ",")]), [])]
    if len(cells) == 1:
        cells = [cell for cell in re.split(r"\s+(?=\d)|(?<=\d)\s+", line.strip()) if cell]
    numbers = [int(cell) for cell in cells if cell.isdecimal()]
    words = [cell for cell in cells if cell and not cell.isdecimal()]
    if len(words) != 1 or words[0].lower() in ("name", "class", "label"):
        return None
    if len(numbers) >= 3 and max(numbers[-3:]) <= 255:
        red, green, blue = numbers[-3:]
        return words[0], (red, green, blue)
    return words[0], None
