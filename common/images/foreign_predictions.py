"""Predictions of any other system, read from a folder of label maps and scored like those of a run."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.images.decoding import header
from common.images.names import Names, checked, files_below
from common.images.palette import AgreeingPalettes, Colour
from common.images.reading import ColourCode, read_values

if TYPE_CHECKING:
    from torch import Tensor

PLACEHOLDERS = ("dataset", "model", "seed", "split")
"""What a folder's name may have in braces."""


def check(folder: str) -> None:
    """Raises a ValueError if a folder's name has other braces than the placeholders."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(folder) if part[1] is not None]
        braces = {name if not (form or conversion) else folder for name, form, conversion in parts}
    except ValueError:
        braces = {folder}
    if not braces <= {*PLACEHOLDERS}:
        listed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"predictions: {folder!r} may have only {listed} in braces")


def has_seeds(folder: str) -> bool:
    """Whether there are predictions of several seeds."""
    return "{seed}" in folder


@dataclass(frozen=True)
class ForeignPredictions:
    """Label maps of one run of another system: a PNG per image, named like it.

    Attributes:
        folder: Where; it may have `{split}` in it.
        colour_coded: Whether they are drawn in the colours of the dataset's classes.
    """

    folder: str
    colour_coded: bool = False

    @classmethod
    def of(
        cls, folder: str, dataset: str, model: str, seed: int, colour_coded: bool = False
    ) -> ForeignPredictions:
        """The predictions of one run.

        Args:
            folder: Where the predictions of all runs lie, with placeholders in braces.
            dataset: Name of the dataset.
            model: Name of the model.
            seed: The seed.
            colour_coded: Whether they are drawn in the colours of the dataset's classes.
        """
        return cls(folder.format(dataset=dataset, model=model, seed=seed, split="{split}"), colour_coded)

    def place(self, split: str) -> Path:
        """The folder of one split."""
        return Path(self.folder.format(split=split)).expanduser()

    def content_sha256(self, splits: Sequence[str]) -> str:
        """SHA-256 of the names and the bytes of all PNGs of some splits.

        Raises:
            UserError: There are none.
        """
        total = hashlib.sha256()
        for split in splits:
            total.update(_content(self.place(split)).encode())
        return total.hexdigest()


class PredictionReader:
    """Reads the predictions of one run, image by image."""

    def __init__(
        self,
        predictions: ForeignPredictions,
        class_names: Sequence[str],
        colours: Sequence[Colour],
        official: bool,
    ) -> None:
        """
        Args:
            predictions: The predictions.
            class_names: Those of the dataset.
            colours: The colours of its classes.
            official: Whether others draw its classes in these, too.

        Raises:
            UserError: They are to be read by colour, and two classes have the same.
        """
        self._predictions = predictions
        self._class_names = class_names
        self._palettes = AgreeingPalettes(class_names, colours if official else ())
        self._code = None
        if predictions.colour_coded:
            code = {colour: label for label, colour in enumerate(colours)}
            if len(code) != len(colours):
                raise UserError(
                    f"{predictions.folder}: predictions cannot be read by colour, as two classes of the "
                    "dataset have the same one: give them different colours, or save labels in grey"
                )
            self._code = ColourCode(code, refuse=True)
        self._there: dict[str, Names] = {}

    def read(self, split: str, name: str, size: tuple[int, int]) -> Tensor:
        """The predicted labels `[H, W]` of one image, uint8 in 0..K−1.

        Args:
            split: The split.
            name: The name of the image.
            size: Its height and width.

        Raises:
            UserError: There is no such PNG, or it does not fit the image, the classes, or the other PNGs.
        """
        import torch

        path = self._file(split, name)
        if self._code:
            labels = self._code.read(path, "predictions are read in the colours of the dataset's classes")
        else:
            labels = read_values(path)
        if labels.shape != size:
            turned = ", and fits only turned: predict pictures as their EXIF data turn them"
            raise UserError(
                f"{path} is {labels.shape[1]}×{labels.shape[0]} but its image is {size[1]}×{size[0]}"
                + (turned if labels.shape == size[::-1] else ": predict at the original size")
            )
        highest = int(labels.max())
        if highest >= len(self._class_names):
            raise UserError(
                f"{path} has the label {highest}: every pixel must have one of the dataset's classes, "
                f"0–{len(self._class_names) - 1}; void is no prediction"
            )
        self._check_palette(path, labels)
        return torch.from_numpy(labels)

    def _file(self, split: str, name: str) -> Path:
        """The PNG of an image.

        Raises:
            UserError: There is none.
        """
        folder = self._predictions.place(split)
        there = self._there.setdefault(split, Names(folder))
        file = checked(f"{name}.png", "an image")
        path = there.find(file)
        if path is None:
            raise UserError(
                f"{folder / file} is missing: there must be a PNG for every image of the split, named like "
                f"the image{there.nearest(file)}"
            )
        return path

    def _check_palette(self, path: Path, labels: NDArray[np.uint8]) -> None:
        """Checks that what a palette shows is what is read.

        Raises:
            UserError: It is something else.
        """
        palette = None if self._code else header(path).palette
        if palette is None:
            return
        colours: dict[int, Colour] = {label: (r, g, b) for label, (r, g, b) in enumerate(palette.tolist())}
        problem = self._palettes.add(str(path), colours, np.unique(labels).tolist())
        if problem:
            raise UserError(
                f"{problem}: save labels in grey, or, if the colours are those of the dataset's classes, set "
                "colour_coded to true beside predictions"
            )


@cache
def _content(folder: Path) -> str:
    """SHA-256 of the names and the bytes of all PNGs below a folder; they are read once per process.

    Raises:
        UserError: There are none.
    """
    files = [file for file in files_below(folder) if file.suffix.lower() == ".png"]
    if not files:
        raise UserError(f"{folder}: there are no predictions (*.png): name the folder that has them")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
