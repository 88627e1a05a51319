"""Small datasets in the layouts that the real ones are published in."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from common.datasets.base import Dataset
from common.datasets.camvid import GROUPS
from common.datasets.manifest import Manifest
from common.runs.jobs import Preparation
from common.stages import prepare

SIZE = (12, 16)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Random colours, others for every path."""
    save(
        path,
        np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (*size, 3), dtype=np.uint8),
    )


def save(path: Path, values: NDArray[np.generic], palette: bool = False) -> None:
    """Values as a picture; with a palette, as VOC's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette([part for n in range(256) for part in (n, 255 - n, n // 2)])
    image.save(path)


def lines(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def bordered(label: int) -> NDArray[np.uint8]:
    """An object on background, with a border of 255 as VOC draws it."""
    labels = np.zeros(SIZE, np.uint8)
    labels[2:10, 3:12] = 255
    labels[4:8, 5:10] = label
    return labels


TRAIN, VAL = ["2007_000001", "2007_000002"], ["2007_000003"]
SBD_TRAIN, SBD_VAL = ["2007_000001", "2008_000004", "2007_000003"], ["2008_000005", "2008_000006"]
FURTHER = ["2008_000004", "2008_000005", "2008_000006"]


def write_voc(root: Path) -> Path:
    """VOC 2012: palette PNGs with borders of 255, and images that only SBD annotates."""
    devkit = root / "VOCdevkit/VOC2012"
    for name in [*TRAIN, *VAL, *FURTHER]:
        picture(devkit / "JPEGImages" / f"{name}.jpg")
    for index, name in enumerate([*TRAIN, *VAL]):
        save(devkit / "SegmentationClass" / f"{name}.png", bordered(index + 1), palette=True)
    for split, names in (("train", TRAIN), ("val", VAL), ("trainval", TRAIN + VAL)):
        lines(devkit / "ImageSets/Segmentation" / f"{split}.txt", names)
    return root


def further(name: str) -> NDArray[np.uint8]:
    """SBD's labels of an image: no borders."""
    labels = np.zeros(SIZE, np.uint8)
    labels[:6] = int(name[-1])
    return labels


def write_sbd(root: Path) -> Path:
    """SBD: `.mat` files whose GTcls has Segmentation, beside Boundaries and CategoriesPresent."""
    folder = root / "benchmark_RELEASE/dataset"
    (folder / "cls").mkdir(parents=True)
    for name in {*SBD_TRAIN, *SBD_VAL}:
        content = {"Segmentation": further(name), "CategoriesPresent": [1], "Boundaries": np.zeros((20, 1))}
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": content}, do_compression=True)
    lines(folder / "train.txt", SBD_TRAIN)
    lines(folder / "val.txt", SBD_VAL)
    return root


def write_aug(root: Path) -> Path:
    """`SegmentationClassAug`: SBD's label maps as PNGs, and VOC's own."""
    for name in [*TRAIN, *VAL, *FURTHER]:
        labels = bordered(1) if name in TRAIN + VAL else further(name)
        save(root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{name}.png", labels)
    return root


IDS = {
    0: 255,
    1: 255,
    3: 255,
    4: 255,
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    17: 5,
    23: 10,
    24: 11,
    26: 13,
    29: 255,
    33: 18,
}
"""Some of Cityscapes' ids and the labels that they train."""


def write_cityscapes(root: Path, train_ids: bool = False) -> Path:
    """Cityscapes: a folder per city, labels by id or by train id."""
    cities = {"train": ["aachen", "ulm"], "val": ["lindau"], "test": ["berlin"]}
    values = np.resize(np.array(list(IDS), np.uint8), SIZE)
    for split, names in cities.items():
        for city in names:
            stem = f"{city}_000000_000019"
            picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            truth = root / "gtFine" / split / city
            labels = values if split != "test" else np.zeros_like(values)
            if train_ids:
                trained = np.array([IDS[value] for value in labels.ravel().tolist()], np.uint8).reshape(SIZE)
                save(truth / f"{stem}_gtFine_labelTrainIds.png", trained)
            else:
                save(truth / f"{stem}_gtFine_labelIds.png", labels)
                save(truth / f"{stem}_gtFine_color.png", np.zeros((*SIZE, 3), np.uint8))
    return root


def write_ade20k(root: Path) -> Path:
    """The scene parsing benchmark of ADE20K: grey label maps of 0–150."""
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            stem = f"ADE_{short}_{number:08d}"
            picture(root / "ADEChallengeData2016/images" / split / f"{stem}.jpg")
            values = np.resize(np.arange(151, dtype=np.uint8), SIZE)
            save(root / "ADEChallengeData2016/annotations" / split / f"{stem}.png", values)
    return root


def write_context(root: Path, masks: str = "59_context_labels") -> Path:
    """PASCAL-Context: masks of 0–59 beside VOC 2010."""
    devkit = root / "VOCdevkit/VOC2010"
    for index, split in enumerate(("train", "val")):
        name = f"2008_00000{index}"
        picture(devkit / "JPEGImages" / f"{name}.jpg")
        values = np.resize(np.arange(60, dtype=np.uint8), SIZE)
        folder = root / masks if masks == "59_context_labels" else devkit / masks
        save(folder / f"{name}.png", values, palette=True)
        lines(devkit / "ImageSets/Main" / f"{split}.txt", [name])
    return root


FRAMES = {
    "train": ["0001TP_006690", "0006R0_f00930", "0016E5_07920", "0016E5_08190"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "Seq05VD_f00000"],
}

COLOURS = [(0, 0, 0), *(colour for group in GROUPS.values() for colour in group.values())]


def write_original_camvid(root: Path) -> Path:
    """CamVid as its authors publish it: 32 colours."""
    drawn = np.resize(np.array(COLOURS, np.uint8), (*SIZE, 3))
    for name in (name for names in FRAMES.values() for name in names):
        picture(root / "701_StillsRaw_full" / f"{name}.png")
        save(root / "LabeledApproved_full" / f"{name}_L.png", drawn)
    return root


def write_camvid(root: Path, counts: tuple[int, int, int] = (3, 2, 2)) -> Path:
    """A small dataset in the layout of the SegNet tutorial."""
    random = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts):
        lines = []
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            name = f"{split}_{index}.png"
            image = random.integers(0, 256, (36, 48, 3), dtype=np.uint8)
            labels = random.integers(0, 12, (36, 48), dtype=np.uint8)
            Image.fromarray(image).save(root / split / name)
            Image.fromarray(labels).save(root / f"{split}annot" / name)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_folder(root: Path) -> Path:
    """Images and label maps of a value each, in the layout that `folder` has by default."""
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        stems = [f"{split}{index}" for index in range(count)]
        for index, stem in enumerate(stems):
            picture(root / "images" / f"{stem}.jpg")
            save(root / "labels" / f"{stem}.png", np.full(SIZE, index, np.uint8))
        lines(root / f"{split}.txt", stems)
    return root


def prepared(dataset: Dataset, results: Path) -> Manifest:
    """The manifest that the prepare stage writes of a dataset."""
    job = Preparation(dataset, {}, "0123456789", results)
    prepare.prepare(job)
    return job.manifest()
