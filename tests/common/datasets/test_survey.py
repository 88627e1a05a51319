"""`structseg init`: what is guessed of folders as people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import entries, reading
from common.datasets.survey import divided
from common.errors import UserError
from common.stages import init
from tests.common.datasets import layouts
from tests.conftest import ROOT

VALUES = np.resize(np.array([0, 1, 2, 2, 255], np.uint8), layouts.SIZE)


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (*layouts.SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def in_split_folders(root: Path) -> None:
    for split in ("training", "validation"):
        for name in ("a", "b"):
            photograph(root / "images" / split / f"{name}.jpg")
            layouts.save(root / "labels" / split / f"{name}.png", VALUES)


def split_first(root: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("a 1", "b 2"):
            photograph(root / split / "img" / f"{name}.png")
            layouts.save(root / split / "mask" / f"{name}_mask.png", VALUES)


def listed(root: Path) -> None:
    for name in ("a", "b", "c", "d"):
        photograph(root / "JPEGImages" / f"{name}.jpg")
        layouts.save(root / "SegmentationClass" / f"{name}.png", VALUES)
    layouts.lines(root / "sets/train.txt", ["a", "b"])
    layouts.lines(root / "sets/val.txt", ["c", "d"])


def side_by_side(root: Path) -> None:
    for number in range(10):
        photograph(root / f"photo{number}.jpg")
        layouts.save(root / f"photo{number}.png", VALUES)


def without_splits(root: Path) -> None:
    for number in range(12):
        photograph(root / "images" / f"{number}.png")
        layouts.save(root / "gt" / f"{number}.png", VALUES)


def initialised(folder: Path, write: Callable[[Path], None]) -> tuple[dict, list[str]]:
    """The complete configuration that is written for a folder, and what was guessed."""
    write(folder / "My Data")
    notes = init.init(folder / "mine.yaml", folder / "My Data")
    return reading.load([folder / "mine.yaml"], base=ROOT / "config.yaml"), notes


@pytest.mark.parametrize(
    ("write", "splits"),
    [
        (in_split_folders, {"training": 2, "validation": 2}),
        (split_first, {"train": 2, "val": 2, "test": 2}),
        (listed, {"train": 2, "val": 2}),
        (side_by_side, {"train": 6, "val": 2, "test": 2}),
        (without_splits, {"train": 8, "val": 2, "test": 2}),
    ],
)
def test_pairs_and_splits_are_seen(
    tmp_path: Path, write: Callable[[Path], None], splits: dict[str, int]
) -> None:
    config, _ = initialised(tmp_path, write)
    dataset = entries.dataset(config, "my_data")
    assert {split: len(dataset.names(split)) for split in dataset.splits} == splits
    for split in splits:
        _, labels = dataset.read(split, dataset.names(split)[0])
        assert np.array_equal(labels, VALUES)
    assert config["datasets"] == ["my_data"]


def test_classes_are_named_by_what_lies_beside(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        in_split_folders(root)
        (root / "classes.txt").write_text("road\ncar\nsky\ntree\n")

    config, notes = initialised(tmp_path, write)
    dataset = entries.dataset(config, "my_data")
    assert dataset.class_names == ("road", "car", "sky", "tree")
    assert any("255 was taken for void" in note for note in notes)


def test_colours_are_classes(tmp_path: Path) -> None:
    colours = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)

    def write(root: Path) -> None:
        in_split_folders(root)
        for path in (root / "labels").rglob("*.png"):
            layouts.save(path, colours[np.where(VALUES == 255, 0, VALUES)])
        table = "name,r,g,b\nroad,128,64,128\nsky,70,130,180\ncar,0,0,142\n"
        (root / "class_dict.csv").write_text(table)

    config, _ = initialised(tmp_path, write)
    dataset = entries.dataset(config, "my_data")
    assert dataset.class_names == ("road", "sky", "car")
    _, labels = dataset.read("training", dataset.names("training")[0])
    assert {*np.unique(labels).tolist()} == {0, 1, 2} and labels[0, 1] == 2


def test_masks_of_0_and_255_are_one_class(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        in_split_folders(root)
        for path in (root / "labels").rglob("*.png"):
            layouts.save(path, np.where(VALUES == 1, 255, 0).astype(np.uint8))

    config, _ = initialised(tmp_path, write)
    _, labels = entries.dataset(config, "my_data").read("training", "training/a")
    assert {*np.unique(labels).tolist()} == {0, 1}


def test_frames_of_a_video_stay_together() -> None:
    names = [f"drive{drive}_{frame:04d}" for drive in range(12) for frame in range(20)]
    splits = divided(names)
    assert sorted(name for part in splits.values() for name in part) == sorted(names)
    drives = {split: {name.split("_")[0] for name in part} for split, part in splits.items()}
    assert sum(map(len, drives.values())) == 12 and len(drives["train"]) == 8


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda root: None, "is no folder"),
        (lambda root: photograph(root / "a.jpg"), "has no images with label maps of the same names"),
    ],
)
def test_a_folder_that_is_of_no_use_is_one_sentence(
    tmp_path: Path, prepare: Callable[[Path], None], sentence: str
) -> None:
    prepare(tmp_path / "data")
    with pytest.raises(UserError, match=sentence):
        init.init(tmp_path / "mine.yaml", tmp_path / "data")
    assert not (tmp_path / "mine.yaml").exists()


def test_a_configuration_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seeds: [0]\n")
    with pytest.raises(UserError, match="is there already"):
        init.init(tmp_path / "mine.yaml", tmp_path)


def test_what_is_written_has_comments(tmp_path: Path) -> None:
    without_splits(tmp_path / "data")
    init.init(tmp_path / "mine.yaml", tmp_path / "data")
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith("# Written by") and "divided at random" in text
    assert yaml.safe_load(text)["training"]["per_dataset"]["data"]["iterations"] == 1000


@pytest.mark.parametrize("write", [in_split_folders, split_first, side_by_side, without_splits])
def test_an_image_without_a_label_map_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    assert not any("no label map" in note for note in initialised(tmp_path / "whole", write)[1])

    def lacking(root: Path) -> None:
        write(root)
        first = next(path for path in sorted(root.rglob("*")) if path.is_file() and "gt" not in path.parts)
        photograph(first.with_name("more.jpg"))

    _, notes = initialised(tmp_path / "lacking", lacking)
    assert any(note.startswith("no label map was found for") and "more.jpg" in note for note in notes)
