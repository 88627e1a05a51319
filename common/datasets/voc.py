"""PASCAL VOC 2012: everyday photographs, 20 kinds of objects and background, borders void.

Everingham et al., "The PASCAL Visual Object Classes Challenge 2012". Splits: `train` (1464) and `val`
(1449) of the segmentation challenge; `sbd`, the 9118 further images that the Berkeley SBD annotates
(Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011) and that are in neither; and from
them `trainaug` = train + sbd (10582) and `trainval` = train + val. The labels of the test split are not
public.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from common.datasets.on_disk import PUBLISHED, FileDataset, Pairs, add
from common.downloads.archives import Archive
from common.errors import UserError
from common.images.decoding import content
from common.images.names import checked
from common.images.palette import voc_colours
from common.images.reading import from_values

VOC2012 = Archive(
    "VOCtrainval_11-May-2012.tar",
    {"VOCdevkit/VOC2012": "VOCdevkit/VOC2012"},
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    # as in torchvision's prototype datasets and TensorFlow Datasets
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
SBD = Archive(
    "benchmark.tgz",
    {
        f"benchmark_RELEASE/dataset/{name}": f"benchmark_RELEASE/dataset/{name}"
        for name in ("cls", "val.txt", "train.txt")
    },
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    # as in torchvision's prototype datasets
    "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
)


class VOC(FileDataset):
    """VOC 2012 with SBD in a folder given by `root` or the environment variable VOC_ROOT.

    SBD's labels are read from its `.mat` files, or from label maps in a folder `SegmentationClassAug` beside
    `SegmentationClass`, where there is one.
    """

    class_names = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
        "tvmonitor",
    )  # fmt: skip
    colours = voc_colours(0, 20)
    joined = MappingProxyType({"trainval": ("train", "val"), "trainaug": ("train", "sbd")})
    locations = ("root", "sbd_root")
    allowed = PUBLISHED
    environment = "VOC_ROOT"
    contents = "the folder with VOCdevkit/VOC2012"
    archives: tuple[Archive, ...] = (VOC2012, SBD)
    terms = (
        'VOC\'s pictures are under the "flickr" terms of use; cite VOC and, for SBD, Hariharan et al. 2011.'
    )

    def __init__(self, root: str | None = None, sbd: bool = True, sbd_root: str | None = None) -> None:
        """
        Args:
            root: The folder with `VOCdevkit/VOC2012`, or `VOC2012` itself; by default the value of VOC_ROOT.
            sbd: Whether there are the annotations of SBD; without them there is no `trainaug`.
            sbd_root: The folder with `benchmark_RELEASE/dataset`, or `dataset` itself; by default the value
                of SBD_ROOT, or `root`.
        """
        super().__init__(root)
        self.splits = ("train", "val", "sbd") if sbd else ("train", "val")
        self.archives = (VOC2012, SBD) if sbd else (VOC2012,)
        self.sbd_root = sbd_root

    @property
    def devkit(self) -> Path:
        """The folder with `JPEGImages`."""
        return _first(self.folder, ("VOCdevkit/VOC2012", "VOC2012", ""), "JPEGImages")

    @property
    def sbd_folder(self) -> Path:
        """The folder with SBD's `cls`, `train.txt` and `val.txt`."""
        place = self.sbd_root or os.environ.get("SBD_ROOT")
        base = Path(place).expanduser() if place else self.folder
        return _first(base, ("benchmark_RELEASE/dataset", "dataset", ""), "cls")

    def folders(self) -> tuple[Path, ...]:
        return (self.folder, self.sbd_folder) if "sbd" in self.splits else (self.folder,)

    def has(self, archive: Archive) -> bool:
        part = self.devkit / "JPEGImages" if archive is VOC2012 else self.sbd_folder / "cls"
        return super().has(archive) or part.is_dir()

    def pairs(self, split: str) -> Pairs:
        images = self.devkit / "JPEGImages"
        names = self._augmenting() if split == "sbd" else self._challenge(split)
        self.existing(images)
        return {name: (images / f"{name}.jpg", labels) for name, labels in names.items()}

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        if path.suffix != ".mat":
            return super().read_labels(path)
        return from_values(_segmentation(path), self.values(), self.void(), path)

    def _challenge(self, split: str) -> dict[str, Path]:
        """The label maps of a split of the challenge."""
        path = self.devkit / "ImageSets/Segmentation" / f"{split}.txt"
        labels = self.existing(self.devkit / "SegmentationClass")
        return _named(self.listed(path), labels, ".png", path)

    def _augmenting(self) -> dict[str, Path]:
        """What SBD annotates and the challenge does not."""
        annotated = self._annotated()
        challenge = {*self._challenge("train"), *self._challenge("val")}
        return {name: annotated[name] for name in sorted({*annotated} - challenge)}

    def _annotated(self) -> dict[str, Path]:
        """The label maps of all that SBD annotates."""
        ready = self.devkit / "SegmentationClassAug"
        if ready.is_dir():
            return {path.stem: path for path in ready.glob("*.png")}
        folder = self.sbd_folder
        if not (folder / "cls").is_dir() and self.folder.is_dir():
            raise UserError(
                f"dataset {self.entry}: {folder} has no annotations of SBD (cls, train.txt, val.txt): get "
                f"them with `snakemake data_{self.entry}`, set SBD_ROOT or dataset_options."
                f"{self.entry}.sbd_root, or do without (and without the split trainaug) by "
                f"dataset_options.{self.entry}.sbd: false"
            )
        labels: dict[str, Path] = {}
        for part in ("train", "val"):
            path = folder / f"{part}.txt"
            labels |= _named(self.listed(path), folder / "cls", ".mat", path)
        return labels


def _first(base: Path, places: tuple[str, ...], content: str) -> Path:
    """The first of the places below `base` that has the content, or the first at all."""
    complete = (base / place for place in places if (base / place / content).is_dir())
    return next(complete, base / places[0])


def _named(lines: list[tuple[int, str]], folder: Path, suffix: str, path: Path) -> dict[str, Path]:
    """The files of a folder that a list names, one per line.

    Args:
        lines: The number and text of every line.
        folder: The folder.
        suffix: What the files end in.
        path: The list, for messages.

    Raises:
        UserError: A line is no name, or one is listed twice.
    """
    files: dict[str, Path] = {}
    for number, name in lines:
        if len(name.split()) != 1:
            raise UserError(f"{path}, line {number}: must be the name of an image, not {name!r}")
        name = checked(name, f"{path}, line {number}")
        add(files, name, folder / f"{name}{suffix}", f"{path}, line {number}")
    return files


def _segmentation(path: Path) -> NDArray[np.uint8]:
    """The label map `[H, W]` of a file of SBD: `GTcls.Segmentation`.

    Raises:
        UserError: It is missing or damaged.
    """
    from scipy.io import loadmat

    data = content(path)
    try:
        labels = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"].item()
    except Exception as error:  # a damaged file fails in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path} cannot be read as SBD's GTcls.Segmentation: {reason}") from None
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "uif" or not np.isin(labels, np.arange(256)).all():
        raise UserError(f"{path}: GTcls.Segmentation is no map of labels from 0 to 255")
    return labels.astype(np.uint8)
