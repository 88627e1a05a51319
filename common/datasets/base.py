"""What a dataset is: named images with label maps, in splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from common.downloads.archives import Archive
from common.images.palette import Colour

PANEL_IMAGES = 3
"""How many images of a split the picture panels show."""


class Dataset(ABC):
    """Images with label maps. Options are the keyword arguments of a subclass's `__init__`.

    Creating one must be cheap and touch no file: the files are looked at by `names` and `read`.

    Attributes:
        entry: The name that the configuration gives it.
        splits: The names of the splits; no image is in two of them.
        joined: Other names for several splits together.
        class_names: One name per class; K is their number.
        colours: One RGB colour per class for pictures.
        locations: Options that only say where files lie; results do not depend on them.
        archives: The files that it can be unpacked from.
        terms: What its licence allows, in one sentence.
    """

    entry: str = ""
    splits: tuple[str, ...] = ("train", "val", "test")
    joined: Mapping[str, tuple[str, ...]] = MappingProxyType({"trainval": ("train", "val")})
    class_names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    locations: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    terms: str = ""

    def parts(self, split: str) -> list[str]:
        """The splits that `train`, `train+val` or a joined one stands for, each once.

        Raises:
            KeyError: There is no such split; the argument is the unknown name.
        """
        known = {name: (name,) if name in self.splits else self.joined[name] for name in self.split_names()}
        return list(dict.fromkeys(part for name in split.split("+") for part in known[name]))

    def split_names(self) -> list[str]:
        """All names that `parts` knows."""
        joined = [name for name, parts in self.joined.items() if {*parts} <= {*self.splits}]
        return list(dict.fromkeys([*self.splits, *joined]))

    @abstractmethod
    def names(self, split: str) -> list[str]:
        """The names of the images of one split, in order.

        Raises:
            UserError: The dataset is not where it should be.
        """

    @abstractmethod
    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One image `[H, W, 3]` in RGB and its labels `[H, W]` in 0..K−1 or 255 for void.

        Raises:
            UserError: A file is missing or damaged, the sizes differ or a label is not legal.
        """


def panel_indices(length: int) -> list[int]:
    """Which images of a split the picture panels show: spread evenly."""
    count = min(PANEL_IMAGES, length)
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]
