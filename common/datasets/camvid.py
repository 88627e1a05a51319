"""CamVid: street scenes from a car, 367/101/233 images of 480×360, 11 classes and void.

Brostow et al., "Semantic Object Classes in Video: A High-Definition Ground Truth Database", Pattern
Recognition Letters 30(2), 2009, in the layout of the SegNet tutorial: `train.txt`, `val.txt` and
`test.txt` list an image and its label map per line; labels are 0–10, and 11 is void.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.datasets.base import Dataset
from common.errors import UserError
from methods.base import VOID


class CamVid(Dataset):
    """The 11-class CamVid in a folder given by `root` or the environment variable CAMVID_ROOT."""

    class_names = (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree",
        "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    )  # fmt: skip
    colours = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip
    locations = ("root",)
    file_void = 11

    def __init__(self, root: str | None = None) -> None:
        """
        Args:
            root: The folder with `train.txt`; by default the value of CAMVID_ROOT.
        """
        self.root = root

    def names(self, split: str) -> list[str]:
        return list(self._pairs(split))

    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pairs = self._pairs(split)
        if name not in pairs:
            raise UserError(
                f"{self._folder() / split}.txt lists no image {name}: the data changed since it was "
                "prepared; delete its manifest in results/datasets/ and run again"
            )
        image_path, label_path = pairs[name]
        image = _read_picture(image_path, "RGB")
        labels = _read_picture(label_path, None)
        if labels.ndim != 2:
            raise UserError(f"{label_path} has several channels: label maps have one value per pixel")
        if labels.shape != image.shape[:2]:
            raise UserError(
                f"{label_path} is {labels.shape[1]}×{labels.shape[0]} but its image is "
                f"{image.shape[1]}×{image.shape[0]}: they must have the same size"
            )
        return image, self._legal(labels, label_path)

    def _legal(self, labels: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """The labels with void as 255; a UserError names values that are no class."""
        mapping = np.full(256, VOID, np.uint8)
        mapping[: len(self.class_names)] = np.arange(len(self.class_names))
        known = {*range(len(self.class_names)), self.file_void, VOID}
        illegal = sorted(set(np.unique(labels).tolist()) - known)
        if illegal:
            raise UserError(
                f"{path} has the labels {illegal}: only 0–{len(self.class_names) - 1} and "
                f"{self.file_void} or {VOID} for void are legal"
            )
        return mapping[labels]

    def _folder(self) -> Path:
        root = self.root or os.environ.get("CAMVID_ROOT")
        if not root:
            raise UserError(
                "dataset camvid: its folder is not known: set the environment variable CAMVID_ROOT "
                "or dataset_options.camvid.root to the folder with train.txt"
            )
        return Path(root).expanduser()

    def _pairs(self, split: str) -> dict[str, tuple[Path, Path]]:
        """Image and label path of every name of one split."""
        return _read_list(self._folder(), split)


@cache
def _read_list(root: Path, split: str) -> dict[str, tuple[Path, Path]]:
    list_path = root / f"{split}.txt"
    try:
        lines = list_path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{list_path} is missing: CAMVID_ROOT or dataset_options.camvid.root must be the folder "
            "of CamVid in the layout of the SegNet tutorial"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{list_path} cannot be read: {error}") from None
    pairs = {}
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 2:
            raise UserError(f"{list_path}, line {number}: must name an image and its label map, not {line!r}")
        name = PurePosixPath(columns[0]).stem
        if name in pairs:
            raise UserError(f"{list_path}, line {number}: the image {name} is listed twice")
        pairs[name] = (_locate(root, columns[0]), _locate(root, columns[1]))
    if not pairs:
        raise UserError(f"{list_path} lists no images: it must name an image and its labels per line")
    return pairs


def _locate(root: Path, listed: str) -> Path:
    """The listed path under `root`: the lists carry a prefix (/SegNet/CamVid/) of their author's."""
    return root.joinpath(*PurePosixPath(listed).parts[-2:])


def _read_picture(path: Path, mode: str | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert(mode) if mode else picture, dtype=np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from None
