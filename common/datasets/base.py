"""What a dataset is: named images with label maps, in splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

PANEL_IMAGES = 3
"""How many images of a split the picture panels show."""


class Dataset:
    """Images with label maps. Options are the keyword arguments of a subclass's `__init__`.

    Creating one must be cheap and touch no file: the files are looked at by `names` and `read`.

    Attributes:
        splits: The names of the splits.
        class_names: One name per class; K is their number.
        colours: One RGB colour per class for pictures.
        locations: Options that only say where files lie; results do not depend on them.
    """

    splits: tuple[str, ...] = ("train", "val", "test")
    class_names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    locations: tuple[str, ...] = ()

    def names(self, split: str) -> list[str]:
        """The names of the images of one split, in order.

        Raises:
            UserError: The dataset is not where it should be.
        """
        raise LookupError(split)

    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One image `[H, W, 3]` in RGB and its labels `[H, W]` in 0..K−1 or 255 for void.

        Raises:
            UserError: A file is missing or damaged, the sizes differ or a label is not legal.
        """
        raise LookupError(name)


def panel_indices(length: int) -> list[int]:
    """Which images of a split the picture panels show: spread evenly."""
    count = min(PANEL_IMAGES, length)
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def coloured(labels: NDArray[np.uint8], colours: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """Label map `[H, W]` to a picture `[H, W, 3]`; void is white."""
    return palette(colours)[labels]


def palette(colours: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """The colour of every value of a label map, `[256, 3]`; void is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table
