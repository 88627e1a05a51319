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
from PIL import Image

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PLACEHOLDERS = ("dataset", "model", "seed", "split")
"""What a folder's name may have in braces."""


def check(folder: str) -> None:
    """Raises a ValueError if a folder's name has other braces than the placeholders."""
    try:
        braces = {name for _, name, _, _ in string.Formatter().parse(folder) if name is not None}
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
    """

    folder: str

    @classmethod
    def of(cls, folder: str, dataset: str, model: str, seed: int) -> ForeignPredictions:
        """The predictions of one run.

        Args:
            folder: Where the predictions of all runs lie, with placeholders in braces.
            dataset: Name of the dataset.
            model: Name of the model.
            seed: The seed.
        """
        return cls(folder.format(dataset=dataset, model=model, seed=seed, split="{split}"))

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

    def read(self, split: str, name: str, size: tuple[int, int], num_classes: int) -> Tensor:
        """The predicted labels `[H, W]` of one image, uint8 in 0..K−1.

        Args:
            split: The split.
            name: The name of the image.
            size: Its height and width.
            num_classes: K.

        Raises:
            UserError: There is no such PNG, or it does not fit the image or the classes.
        """
        import torch

        path = self.place(split) / f"{name}.png"
        labels = _read(path)
        if labels.shape != size:
            raise UserError(
                f"{path} is {labels.shape[1]}×{labels.shape[0]} but its image is {size[1]}×{size[0]}: "
                "predict at the original size"
            )
        highest = int(labels.max())
        if highest >= num_classes:
            raise UserError(
                f"{path} has the label {highest}: every pixel must have one of the dataset's classes, "
                f"0–{num_classes - 1}; void is no prediction"
            )
        return torch.from_numpy(labels)


def _read(path: Path) -> NDArray[np.uint8]:
    """The values of a PNG, `[H, W]`.

    Raises:
        UserError: It is missing or damaged, or has colours.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "1"):
                raise UserError(
                    f"{path} has colours (mode {picture.mode}): save labels with a palette, or in grey"
                )
            return np.array(picture, dtype=np.uint8)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: there must be a PNG for every image of the split, named like the image"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from None


@cache
def _content(folder: Path) -> str:
    """SHA-256 of the names and the bytes of all PNGs below a folder; they are read once per process.

    Raises:
        UserError: There are none.
    """
    files = sorted(folder.rglob("*.png")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: there are no predictions (*.png): name the folder that has them")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
