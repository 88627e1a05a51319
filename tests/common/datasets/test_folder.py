"""Data of one's own, described by options alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import entries, reading
from common.datasets.folder import Folder
from common.datasets.inspection import inspect
from common.errors import UserError
from common.runs import plan
from common.stages import prepare, train
from tests.common.datasets import layouts
from tests.conftest import TINY


def test_a_folder_needs_a_root_and_the_classes(tmp_path: Path) -> None:
    dataset = Folder(str(layouts.write_folder(tmp_path)), ["road", "car", "sky"])
    assert dataset.names("train") == ["train0", "train1", "train2"]
    assert (dataset.read("train", "train2")[1] == 2).all()
    assert dataset.class_names == ("road", "car", "sky")
    pixels = layouts.SIZE[0] * layouts.SIZE[1]
    assert inspect(dataset).splits["train"].pixels == {"road": pixels, "car": pixels, "sky": pixels}


def test_a_folder_by_configuration_alone(tmp_path: Path) -> None:
    options = {
        "module": "folder",
        "root": str(layouts.write_folder(tmp_path)),
        "class_names": ["a", "b", "c"],
    }
    config = reading.complete(TINY | {"datasets": ["streets"], "dataset_options": {"streets": options}})
    assert entries.dataset(config, "streets").names("val") == ["val0", "val1"]
    before = plan.preparation(config, "streets").path
    config["dataset_options"]["streets"]["root"] = str(layouts.write_folder(tmp_path / "other"))
    assert plan.preparation(config, "streets").path == before, "data are the same wherever they lie"


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (["train1.jpg"], {}),
        (["images/train1.jpg labels/train1.png"], {}),
        (["", "train1", ""], {"lists": "lists/{split}.lst"}),
    ],
)
def test_forms_of_lists(tmp_path: Path, lines: list[str], options: dict) -> None:
    root = layouts.write_folder(tmp_path)
    layouts.lines(root / options.get("lists", "{split}.txt").replace("{split}", "train"), lines)
    dataset = Folder(str(root), ["a", "b", "c"], **options)
    (name,) = dataset.names("train")
    assert (dataset.read("train", name)[1] == 1).all()


def test_a_folder_per_split_needs_no_lists(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        for place in ("a", "b"):
            layouts.picture(tmp_path / "images" / split / place / "0.JPG")
            path = tmp_path / "annotations" / split / place / "0_seg.png"
            layouts.save(path, np.full(layouts.SIZE, 7, np.uint8))
    dataset = Folder(
        str(tmp_path), ["thing"], splits=["training", "validation"], images="images/{split}",
        labels="annotations/{split}", lists=None, label_suffix="_seg.png", values=[7], void=[0],
    )  # fmt: skip
    assert dataset.names("training") == ["training/a/0", "training/b/0"], "one of each name in all splits"
    assert (dataset.read("validation", "validation/a/0")[1] == 0).all()
    dataset.allowed = frozenset({"single_class"})
    inspect(dataset)


def test_label_maps_in_colours(tmp_path: Path) -> None:
    root = layouts.write_folder(tmp_path)
    drawn = np.zeros((*layouts.SIZE, 3), np.uint8)
    drawn[:4], drawn[4:8] = (10, 20, 30), (40, 50, 60)
    layouts.save(root / "labels/train0.png", drawn)
    options = {"colours": [[40, 50, 60], [10, 20, 30]], "colour_coded": True}
    dataset = Folder(str(root), ["a", "b"], **options, void_colours=[[0, 0, 0]])
    _, labels = dataset.read("train", "train0")
    assert labels[:, 0].tolist() == [1] * 4 + [0] * 4 + [255] * 4
    with pytest.raises(UserError, match=r"colours \(0, 0, 0\) \(64 pixels\).*void_colours"):
        Folder(str(root), ["a", "b"], **options).read("train", "train0")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_names": []}, "class_names must be 1 to 255 names, not 0"),
        ({"class_names": ["a", "a"]}, "class_names must all differ"),
        ({"colours": [[0, 0, 0]]}, "colours must be one per class, 2, not 1"),
        (
            {"colours": [[0, 0, 0], [0, 0, 256]]},
            r"a colour must be three numbers from 0 to 255, not \[0, 0, 256\]",
        ),
        ({"values": [1]}, "values must be one per class, 2, not 1"),
        ({"values": [1, 255], "void": [255]}, "values and void must be different numbers"),
        ({"lists": None}, r"without lists, images must have \{split\} in it"),
        ({"splits": ["train+val"]}, r"splits must be names without \+"),
        ({"splits": [], "lists": "x"}, "splits must be names"),
        ({"colour_coded": True}, "colour_coded needs colours"),
        ({"colour_coded": True, "colours": [[0, 0, 0], [0, 0, 0]]}, "must all differ"),
        ({"rooot": "x"}, r"unknown option 'rooot' \(did you mean root\?\)"),
        ({"class_names": "ab"}, r"class_names: 'ab' is not of type Sequence\[str\]"),
        ({"root": None}, "root: null is not of type str"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict, sentence: str) -> None:
    entry = {"module": "folder", "root": "/x", "class_names": ["a", "b"]} | options
    with pytest.raises(UserError, match=rf"dataset_options.streets.*{sentence}"):
        reading.complete(TINY | {"dataset_options": {"streets": entry}})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda root: (root / "train.txt").unlink(),
            "train.txt is missing: dataset_options.folder.root must be",
        ),
        (lambda root: (root / "train.txt").write_text(" \n"), "train.txt lists no images"),
        (
            lambda root: (root / "train.txt").write_text("a b c\n"),
            "train.txt, line 1: must name an image, or",
        ),
        (lambda root: (root / "train.txt").write_text("x\nx.jpg\n"), "line 2: the image x is listed twice"),
        (lambda root: (root / "images/train1.jpg").unlink(), "images/train1.jpg is missing"),
        (lambda root: (root / "labels/train1.png").unlink(), "labels/train1.png is missing"),
        (
            lambda root: layouts.save(root / "labels/train1.png", np.full(layouts.SIZE, 5, np.uint8)),
            r"has the labels \[5\]: only 0–2 and 255 for void are legal",
        ),
        (
            lambda root: layouts.save(root / "labels/train1.png", np.full(layouts.SIZE, 300, np.uint16)),
            "has values from 300 to 300: labels are 0–255",
        ),
    ],
)
def test_bad_files_of_a_folder_are_one_sentence(tmp_path: Path, damage: Callable, sentence: str) -> None:
    root = layouts.write_folder(tmp_path)
    damage(root)
    with pytest.raises(UserError, match=sentence) as caught:
        inspect(Folder(str(root), ["a", "b", "c"]))
    assert "\n" not in str(caught.value)


def test_labels_of_16_bits_are_read_where_they_fit(tmp_path: Path) -> None:
    root = layouts.write_folder(tmp_path)
    layouts.save(root / "labels/train0.png", np.full(layouts.SIZE, 2, np.uint16))
    assert (Folder(str(root), ["a", "b", "c"]).read("train", "train0")[1] == 2).all()


def test_images_of_different_sizes_need_a_crop(tmp_path: Path, tiny: dict) -> None:
    root = layouts.write_folder(tmp_path / "data")
    layouts.picture(root / "images/train1.jpg", size=(24, 32))
    layouts.save(root / "labels/train1.png", np.ones((24, 32), np.uint8))
    options = {"streets": {"module": "folder", "root": str(root), "class_names": ["a", "b", "c"]}}
    config = reading.complete(tiny | {"datasets": ["streets"], "dataset_options": options})
    prepare.prepare(plan.preparation(config, "streets"))
    with pytest.raises(UserError, match=r"training.crop \(for streets\): the images have different sizes"):
        train.train(plan.runs(config)[0].training, plan.execution(config))


def test_a_pattern_says_which_images_belong_together(tmp_path: Path) -> None:
    options = {
        "module": "folder",
        "root": str(layouts.write_folder(tmp_path)),
        "class_names": ["a", "b", "c"],
    }
    config = reading.complete(TINY | {"datasets": ["streets"], "dataset_options": {"streets": options}})
    before, stamp = plan.preparation(config, "streets"), plan.benchmark(config).outputs.stamp
    assert before.dataset.sequence("train", "train2") is None
    config["dataset_options"]["streets"]["sequences"] = "(?P<sequence>[a-z]+)(?P<frame>[0-9]+)"
    after = plan.preparation(config, "streets")
    assert after.dataset.sequence("train", "train2") == ("train", 2)
    assert after.dataset.sequence("train", "another") is None
    assert inspect(after.dataset).splits["val"].sequences == [("val", 0), ("val", 1)]
    assert after.path == before.path, "nothing is trained again for it"
    assert plan.benchmark(config).outputs.stamp != stamp, "but tables are made anew"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"sequences must be a regular expression, not '\('"),
        ("(?P<sequence>.*)", "must have the groups .*<frame>"),
    ],
)
def test_a_pattern_that_says_nothing(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Folder("/data", ["a"], sequences=pattern)


def test_a_pattern_whose_frame_is_no_number() -> None:
    dataset = Folder("/data", ["a"], sequences="(?P<sequence>.)(?P<frame>.*)")
    with pytest.raises(UserError, match=r"frame must be a number, not 'bc', as in the image abc"):
        dataset.sequence("train", "abc")
