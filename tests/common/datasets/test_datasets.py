"""All datasets: they are found by themselves, have classes, and say where they are looked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import datasets
from common.datasets import load, names
from common.datasets.camvid import CamVid
from common.errors import UserError
from tests.common.datasets import layouts
from tests.conftest import ROOT


def test_files_with_a_dataset_are_found_and_no_others() -> None:
    assert names() == ["ade20k", "camvid", "cityscapes", "digits", "folder", "pascal_context", "voc"]


@pytest.mark.parametrize(
    ("text", "is_dataset"),
    [
        ("from common.datasets.base import Dataset\nclass Mine(Dataset): ...", True),
        ("from common.datasets.on_disk import FileDataset as Files\nclass Mine(Files): ...", True),
        ("from common.datasets import base\nclass Mine(base.Dataset): ...", True),
        ("from common.datasets.camvid import CamVid\nclass CamVid2(CamVid): ...", True),
        ("from common.datasets import camvid\nclass CamVid(camvid.CamVid): ...", True),
        ("from abc import ABC\nfrom common.datasets import Dataset\nclass Shared(Dataset, ABC): ...", False),
        ("import abc\nfrom common.datasets import Dataset\nclass Shared(Dataset, abc.ABC): ...", False),
        ("from torch.utils.data import Dataset\nclass Split(Dataset[int]): ...", False),
        ("from common.datasets.base import Dataset\ndef count(dataset: Dataset) -> int: ...", False),
    ],
)
def test_what_a_dataset_is(tmp_path: Path, text: str, is_dataset: bool) -> None:
    for path in Path(str(datasets.__file__)).parent.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "new.py").write_text(text)
    assert ("new" in datasets._names(tmp_path, 0)) == is_dataset


def test_a_module_without_a_dataset_is_one_sentence() -> None:
    with pytest.raises(LookupError, match=r"manifest.py must define exactly one dataset, and has none"):
        load("manifest")


@pytest.mark.parametrize("name", names())
def test_the_module_of_a_dataset_defines_it(name: str) -> None:
    assert load(name).__module__ == f"common.datasets.{name}"
    assert load("camvid") is CamVid


def test_all_datasets_are_loaded_without_what_only_reading_needs() -> None:
    heavy = ("torch", "torchvision", "scipy", "sklearn", "tqdm", "urllib.request")
    program = (
        "import sys; from common import datasets; [datasets.load(name) for name in datasets.names()]; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(names()) - {"folder"}))
def test_every_class_has_a_name_and_a_colour(name: str) -> None:
    dataset = load(name)()
    assert len(dataset.class_names) == len(dataset.colours) == len({*dataset.class_names})


@pytest.mark.parametrize("name", ["ade20k", "voc", "cityscapes", "pascal_context", "camvid"])
def test_a_wrong_root_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = load(name)
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    with pytest.raises(
        UserError, match=rf"there is no folder .*nowhere/{name}: .*data_{name}.*{kind.environment}"
    ):
        kind().names("train")
    monkeypatch.setenv(kind.environment, str(tmp_path))
    with pytest.raises(
        UserError, match=rf"is missing: {kind.environment} or dataset_options.{name}.root must be"
    ):
        kind().names("train")


def write_all_of_voc(root: Path) -> Path:
    return layouts.write_sbd(layouts.write_voc(root))


@pytest.mark.parametrize(
    ("name", "write", "splits"),
    [
        ("ade20k", layouts.write_ade20k, ["train", "val"]),
        ("voc", write_all_of_voc, ["train", "val", "sbd"]),
        ("cityscapes", layouts.write_cityscapes, ["train", "val"]),
        ("pascal_context", layouts.write_context, ["train", "val"]),
    ],
)
def test_readers_move_neither_images_nor_labels(
    name: str, write: Callable[[Path], Path], splits: list[str], tmp_path: Path
) -> None:
    dataset = load(name)(str(write(tmp_path)))
    for split in splits:
        for image_name, (image_path, label_path) in dataset.pairs(split).items():
            image, labels = dataset.read(split, image_name)
            assert np.array_equal(image, np.array(Image.open(image_path).convert("RGB")))
            sbd = label_path.suffix == ".mat"
            values = layouts.further(image_name) if sbd else np.array(Image.open(label_path))
            assert values.shape == labels.shape == image.shape[:2]
            for value in np.unique(values):
                assert len(np.unique(labels[values == value])) == 1
