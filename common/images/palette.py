"""The colours of label maps."""

from __future__ import annotations

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
