"""The colours of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]


def coloured(labels: NDArray[np.uint8], colours: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """Label map `[H, W]` to a picture `[H, W, 3]`; void is white."""
    return palette(colours)[labels]


def palette(colours: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """The colour of every value of a label map, `[256, 3]`; void is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table


def voc_colours(first: int, last: int) -> tuple[Colour, ...]:
    """The colours of PASCAL VOC for the labels `first` to `last`.

    The bits of a label are dealt to red, green and blue in turn, beginning with the highest bit of each
    (VOC development kit, `VOClabelcolormap.m`).
    """

    def channel(label: int, offset: int) -> int:
        """One channel of a label's colour; `offset` is 0 for red, 1 for green, 2 for blue."""
        return sum((label >> (3 * place + offset) & 1) << (7 - place) for place in range(3))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(first, last + 1))


class AgreeingPalettes:
    """Whether label maps that are read by index mean the same by the colours of their palettes."""

    def __init__(
        self, class_names: Sequence[str], colours: Sequence[Colour], values: Sequence[int] | None = None
    ) -> None:
        """
        Args:
            class_names: One per class.
            colours: Those that others draw the classes in, one per class; none if that is not known.
            values: The value of each class in the label maps; by default 0 to K−1.
        """
        self._names, self._colours = class_names, colours
        self._values = list(range(len(class_names)) if values is None else values)
        self._first: dict[int, tuple[Colour, str]] = {}
        self._problems: dict[str, list[str]] = {}

    def add(self, file: str, palette: Mapping[int, Colour], present: Sequence[int]) -> str | None:
        """Looks at a label map; gives the sentence of what is wrong with it, if anything is.

        Args:
            file: The file.
            palette: The colour that it gives to each class; none if it has no palette.
            present: The classes that have a pixel.
        """
        for label in present if palette else ():
            colour = palette.get(label)
            if colour is None:
                continue
            first, other = self._first.setdefault(label, (colour, file))
            if first != colour:
                return self._problem(
                    "differ",
                    f"{file} gives {self._names[label]} the colour {colour} but {other} gives it {first}, "
                    "and label maps are read by index",
                )
            if self._colours and colour != self._colours[label] and colour in self._colours:
                theirs = self._names[list(self._colours).index(colour)]
                return self._problem(
                    "order",
                    f"{file} gives {self._names[label]} the colour {colour} of {theirs}, and label maps are "
                    "read by index",
                )
        return self._grey(file, {label: palette[label] for label in present if label in palette})

    def _grey(self, file: str, palette: Mapping[int, Colour]) -> str | None:
        """Looks for values that were written as grey: GIFs and shrunken PNGs have a palette of it."""
        values = {label: colour[0] for label, colour in palette.items() if len({*colour}) == 1}
        if not 1 < len(values) == len(palette) or not {*values.values()} <= {*self._values}:
            return None
        for label, value in values.items():
            if value != self._values[label]:
                other = self._names[self._values.index(value)]
                return self._problem(
                    "grey",
                    f"{file} shows {self._names[label]} in the grey {value}, which is the value of {other}, "
                    "and label maps are read by index",
                )
        return None

    def _problem(self, kind: str, sentence: str) -> str:
        """Remembers what is wrong with a file."""
        self._problems.setdefault(kind, []).append(sentence)
        return sentence

    def problems(self) -> list[str]:
        """A sentence per kind of what is wrong, with the first file and how many more there are."""
        return [
            sentences[0] + (f" (and so do {len(sentences) - 1} more files)" if len(sentences) > 1 else "")
            for sentences in self._problems.values()
        ]
