"""What a dataset is: named images with label maps, in splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

PANEL_IMAGES = 3
"""How many images of a split the picture panels show."""


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is unpacked from, by `snakemake data_<name>`.

    Attributes:
        name: The name of the file: `.zip`, `.tar` or compressed `.tar`.
        places: What is unpacked, as paths in the archive, and where it lies below the dataset's folder;
            lists of images come last, so that a dataset that has them is complete. An archive of one place
            may also be flat: have the content of that place without the folder.
        address: Where it is downloaded from; None if that needs a login.
        sha256: Its digest; None if none is published.
        login: For an archive without an address: where to log in and what to download.
    """

    name: str
    places: Mapping[str, str]
    address: str | None = None
    sha256: str | None = None
    login: str = ""


class Dataset:
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
