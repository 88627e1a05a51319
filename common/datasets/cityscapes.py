"""Cityscapes: street scenes of 50 cities, 2975/500 images of 2048×1024, 19 classes and void.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, as its archives
are unpacked: `leftImg8bit/<split>/<city>/…_leftImg8bit.png` and
`gtFine/<split>/<city>/…_gtFine_labelIds.png`, or `…_labelTrainIds.png` as its scripts write them. The
labels of the test split (1525) are not public: its files have dummies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.datasets.on_disk import PUBLISHED, FileDataset, Pairs, add
from common.downloads.archives import Archive
from common.errors import UserError
from common.images.palette import Colour
from common.images.reading import from_values, read_values
from common.labels import VOID

LOGIN = "register at https://www.cityscapes-dataset.com, log in and download it"
IMAGE = "_leftImg8bit.png"

TRAINED: dict[str, tuple[int, Colour]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""Id and colour of the 19 classes, in the order of their train ids."""

LAST_ID = 33
"""The ids from 0 to this that are not trained are void."""


class Cityscapes(FileDataset):
    """Cityscapes in a folder given by `root` or the environment variable CITYSCAPES_ROOT."""

    class_names = tuple(TRAINED)
    colours = tuple(colour for _, colour in TRAINED.values())
    allowed = PUBLISHED
    environment = "CITYSCAPES_ROOT"
    contents = "the folder with leftImg8bit and gtFine"
    archives = tuple(
        Archive(f"{folder}_trainvaltest.zip", {folder: folder}, login=LOGIN)
        for folder in ("leftImg8bit", "gtFine")
    )
    terms = "Cityscapes is for non-commercial use, under the terms that its login asks to agree to."

    def __init__(self, root: str | None = None, test: bool = False) -> None:
        """
        Args:
            root: The folder with `leftImg8bit` and `gtFine`; by default the value of CITYSCAPES_ROOT.
            test: Whether there is the split `test` too, to look at: its labels are all void.
        """
        super().__init__(root)
        self.splits = ("train", "val", "test") if test else ("train", "val")
        self.unlabelled = ("test",)

    def pairs(self, split: str) -> Pairs:
        images = self.existing(self.folder / "leftImg8bit" / split)
        truth = self.existing(self.folder / "gtFine" / split)
        pairs: Pairs = {}
        for path in sorted(images.glob(f"*/*{IMAGE}")):
            name = path.name.removesuffix(IMAGE)
            labels = truth / path.parent.name / f"{name}_gtFine_labelIds.png"
            if not labels.exists():
                labels = labels.with_name(f"{name}_gtFine_labelTrainIds.png")
            add(pairs, name, (path, labels), str(path))
        if not pairs:
            raise UserError(f"{images} has no <city>/<name>{IMAGE}: {self.contents} must be complete")
        return pairs

    def sequence(self, split: str, name: str) -> tuple[str, int] | None:
        """The city, in which the drives and their frames follow each other, as aachen_000012_000019 says.

        Its images are 1.8 s or more apart: neighbours need not resemble each other, but may.
        """
        city, *numbers = name.split("_")
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            return None
        drive, frame = map(int, numbers)
        return city, 1_000_000 * drive + frame

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        if not path.exists():
            usual = path.name.replace("labelTrainIds", "labelIds")
            raise UserError(f"{path.with_name(usual)} is missing, and {path.name} beside it too")
        if path.name.endswith("labelTrainIds.png"):
            return super().read_labels(path)
        ids = [number for number, _ in TRAINED.values()]
        return from_values(read_values(path), ids, {*range(LAST_ID + 1), VOID} - {*ids}, path)
