"""CamVid in both layouts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.camvid import CamVid, split_of
from common.datasets.inspection import inspect
from common.errors import UserError
from tests.common.datasets import layouts


def test_camvid_is_read_with_void_as_255(camvid: Path) -> None:
    dataset = CamVid(str(camvid))
    image, labels = dataset.read("train", "train_0")
    on_file = np.array(Image.open(camvid / "trainannot" / "train_0.png"))
    assert np.array_equal(image, np.array(Image.open(camvid / "train" / "train_0.png")))
    assert np.array_equal(labels == 255, on_file == 11)
    assert np.array_equal(labels[on_file < 11], on_file[on_file < 11])


def test_the_published_splits_are_as_they_are(camvid: Path) -> None:
    shutil.copy(camvid / "train/train_0.png", camvid / "test/test_0.png")
    (note,) = inspect(CamVid(str(camvid)), ["train"]).notes
    assert note.startswith("the image test_0 (as train_0) of test is pixel for pixel in train, too")


def test_the_environment_says_where_camvid_is(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMVID_ROOT", str(camvid))
    assert CamVid().names("val") == ["val_0", "val_1"]


def test_camvid_at_its_original_size(tmp_path: Path) -> None:
    dataset = CamVid(str(layouts.write_original_camvid(tmp_path)), layout="original")
    for split, frames in layouts.FRAMES.items():
        assert dataset.names(split) == sorted(frames)
    _, labels = dataset.read("val", "0016E5_07959")
    by_colour = dict(zip(layouts.COLOURS, labels.ravel().tolist()))
    assert len(by_colour) == 32
    assert by_colour[0, 0, 0] == 255
    names = {colour: CamVid.class_names[label] for colour, label in by_colour.items() if label != 255}
    assert names[64, 128, 192] == "Car", "a pickup truck"
    assert names[128, 0, 192] == "Road", "a lane marking"
    assert names[192, 0, 192] == "Bicyclist", "a motorcycle"
    assert {*names.values()} == {*CamVid.class_names}


def test_colours_that_are_none_of_the_32(tmp_path: Path) -> None:
    root = layouts.write_original_camvid(tmp_path)
    drawn = np.full((*layouts.SIZE, 3), 128, np.uint8)
    drawn[0, :3] = (1, 2, 3)
    layouts.save(root / "LabeledApproved_full/0016E5_07959_L.png", drawn)
    with pytest.raises(UserError, match=r"the colours \(1, 2, 3\) \(3 pixels\), which are no class: .*void"):
        CamVid(str(root), layout="original").read("val", "0016E5_07959")
    lenient = CamVid(str(root), layout="original", unknown_colours="void")
    _, labels = lenient.read("val", "0016E5_07959")
    assert (labels[0, :3] == 255).all() and (labels == 0).sum() == labels.size - 3


def test_void_may_be_a_class_as_in_the_code_of_rmi(tmp_path: Path) -> None:
    root = str(layouts.write_original_camvid(tmp_path))
    dataset = CamVid(root, layout="original", void_as_class=True)
    assert (len(dataset.class_names), len(dataset.colours)) == (12, 12)
    assert (dataset.read("val", "0016E5_07959")[1].ravel()[:1] == 11).all()


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_camvid() -> None:
    dataset = CamVid()
    assert [len(dataset.names(split)) for split in dataset.splits] == [367, 101, 233]
    inspection = inspect(dataset)
    assert inspection.splits["test"].sizes == ["480x360"]
    assert inspection.panel["test_image_0"].shape == (360, 480, 3)


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_splits_are_whole_stretches_of_video() -> None:
    dataset = CamVid()
    for split in dataset.splits:
        assert {split_of(name) for name in dataset.names(split)} == {split}


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_camvid_with_void_as_a_class() -> None:
    name = CamVid().names("val")[0]
    eleven, twelve = (CamVid(void_as_class=flag).read("val", name)[1] for flag in (False, True))
    assert np.array_equal(eleven == 255, twelve == 11)
    assert np.array_equal(eleven[eleven != 255], twelve[eleven != 255])


def test_frames_of_a_video_belong_together(tmp_path: Path) -> None:
    dataset = CamVid(str(layouts.write_original_camvid(tmp_path)), layout="original")
    assert dataset.sequence("test", "0001TP_008550") == ("0001TP", 8550)
    assert dataset.sequence("test", "Seq05VD_f00120") == ("Seq05VD", 120)
    places = inspect(dataset).splits["test"].sequences
    assert places == [dataset.sequence("test", name) for name in dataset.names("test")]
