"""What is counted in a dataset, and that everything that is wrong with it is told at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.camvid import CamVid
from common.datasets.digits import Digits
from common.datasets.folder import Folder
from common.datasets.inspection import inspect
from common.errors import UserError
from tests.common.datasets import layouts


def test_statistics_of_the_colours(tmp_path: Path) -> None:
    dataset = Folder(str(layouts.write_folder(tmp_path)), ["a", "b", "c"])
    train = inspect(dataset).splits["train"]
    images = [dataset.read("train", name)[0].reshape(-1, 3) for name in dataset.names("train")]
    pixels = np.concatenate(images) / 255
    assert np.allclose(train.colour_mean, pixels.mean(axis=0), atol=1e-6)
    assert np.allclose(train.colour_std, pixels.std(axis=0), atol=1e-6)
    assert train.images_with == {"a": 1, "b": 1, "c": 1}


def test_the_content_is_all_pixels_and_labels_in_order() -> None:
    dataset = Digits(48, 2, 1, 1)
    content = b""
    for split in dataset.splits:
        for name in dataset.names(split):
            image, labels = dataset.read(split, name)
            content += f"{split} {image.shape}\n".encode() + image.tobytes() + labels.tobytes()
    assert inspect(dataset).content_sha256 == hashlib.sha256(content).hexdigest()


def test_the_panel_shows_some_images_of_every_split() -> None:
    dataset = Digits(48, 8, 1, 2)
    panel = inspect(dataset).panel
    assert {name for name in panel if "image" in name} == {
        "train_image_0", "train_image_1", "train_image_2", "val_image_0", "test_image_0", "test_image_1",
    }  # fmt: skip
    image, labels = dataset.read("train", "train-00004")
    assert np.array_equal(panel["train_image_1"], image)
    assert np.array_equal(panel["train_labels_1"], labels)


def test_every_bad_file_is_told(camvid: Path) -> None:
    (camvid / "train/train_0.png").unlink()
    (camvid / "valannot/val_1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((36, 48), 77, np.uint8)).save(camvid / "testannot/test_1.png")
    with pytest.raises(UserError, match="has 3 problems") as caught:
        inspect(CamVid(str(camvid)))
    for name in ("train_0", "val_1", "test_1"):
        assert name in str(caught.value)


def test_an_image_in_two_splits_is_told(camvid: Path) -> None:
    (camvid / "val.txt").write_text("/train/train_0.png /trainannot/train_0.png\n")
    with pytest.raises(UserError, match="train_0 is in both train and val"):
        inspect(CamVid(str(camvid)))
