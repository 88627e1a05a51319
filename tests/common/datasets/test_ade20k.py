"""The scene parsing benchmark of ADE20K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.ade20k import ADE20K
from common.errors import UserError
from tests.common.datasets import layouts


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_ade20k_has_150_classes_and_void(tmp_path: Path, inner: str) -> None:
    dataset = ADE20K(str(layouts.write_ade20k(tmp_path) / inner))
    assert dataset.names("train") == ["ADE_train_00000001", "ADE_train_00000002"]
    _, labels = dataset.read("val", "ADE_val_00000002")
    values = np.resize(np.arange(151), layouts.SIZE)
    assert np.array_equal(labels, np.where(values == 0, 255, values - 1))


def test_names_and_colours_are_those_of_the_benchmark() -> None:
    """The first, the last, and some between, as `objectInfo150.txt` and `color150.mat` have them."""
    table = dict(zip(ADE20K.class_names, ADE20K.colours, strict=True))
    assert len(table) == 150 and ADE20K.class_names[0] == "wall" and ADE20K.class_names[149] == "flag"
    assert table["wall"] == (120, 120, 120) and table["flag"] == (92, 0, 255)
    assert table["person"] == (150, 5, 61) and ADE20K.class_names.index("person") == 12
    assert table["road"] == table["skyscraper"] == (140, 140, 140)


def test_a_value_that_is_no_class_is_refused(tmp_path: Path) -> None:
    root = layouts.write_ade20k(tmp_path)
    path = root / "ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    Image.fromarray(np.full(layouts.SIZE, 255, np.uint8)).save(path)
    with pytest.raises(UserError, match=r"ADE_train_00000001.png has the labels \[255\]"):
        ADE20K(str(root)).read("train", "ADE_train_00000001")


def test_a_folder_without_images_is_one_sentence(tmp_path: Path) -> None:
    root = layouts.write_ade20k(tmp_path)
    for path in (root / "ADEChallengeData2016/images/validation").glob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match="images/validation has no ADE_….jpg: ADE20K_ROOT must be the folder"):
        ADE20K(str(root)).names("val")


def test_ade20k_is_prepared(tmp_path: Path) -> None:
    dataset = ADE20K(str(layouts.write_ade20k(tmp_path / "data")))
    train = layouts.prepared(dataset, tmp_path / "results").splits["train"]
    assert len(train.names) == 2 and len(train.pixels) == 150 and min(train.pixels.values()) > 0
