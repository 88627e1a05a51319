"""Datasets: digits drawn, CamVid read, and everything that can be wrong with files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import config as configuration
from common import prepare, runs
from common.datasets.camvid import CamVid
from common.datasets.digits import SOURCE, Digits, _source
from common.errors import UserError
from common.files import read_json

# digits


def test_digits_are_the_same_every_time() -> None:
    from common.datasets import digits

    first = Digits(size=48).read("train", "train-00003")
    digits._compose.cache_clear()
    again = Digits(size=48).read("train", "train-00003")
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    other = Digits(size=48, seed=1).read("train", "train-00003")
    assert not np.array_equal(first[0], other[0])


def test_digits_are_images_with_legal_labels() -> None:
    dataset = Digits()
    seen = set()
    for name in dataset.names("train")[:60]:
        image, labels = dataset.read("train", name)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert labels.shape == (64, 64) and labels.dtype == np.uint8
        seen |= set(np.unique(labels).tolist())
    assert seen == set(range(11)), "background and every digit occur"


def test_neighbouring_digits_tell_of_each_other() -> None:
    """The digits of a canvas are consecutive, modulo ten."""
    dataset = Digits()
    for name in dataset.names("val")[:40]:
        found = sorted(set(np.unique(dataset.read("val", name)[1]).tolist()) - {0})
        digits = {label - 1 for label in found}
        starts = [d for d in digits if (d - 1) % 10 not in digits]
        gaps = len(starts)
        assert gaps <= 2, f"{name} shows {sorted(digits)}: a run, of which clutter may hide one digit"


def test_writers_of_the_splits_are_apart() -> None:
    """Every writer filled in the same form: the file repeats its first labels where one begins."""
    images, targets = _source()
    for split in SOURCE.values():
        assert np.array_equal(targets[split.start : split.start + 60], targets[:60])
    used = [set(range(*SOURCE[split].indices(len(images)))) for split in ("train", "val", "test")]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    assert len(set.union(*used)) == len(images) == 1797


# CamVid


def write_camvid(root: Path, counts: tuple[int, int, int] = (3, 2, 2)) -> Path:
    """A small data set in the layout of the SegNet tutorial."""
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


@pytest.fixture
def camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    yield write_camvid(tmp_path / "CamVid")


def prepared(root: Path, tiny: dict) -> dict:
    config = tiny | {"datasets": ["camvid"], "dataset_options": {"camvid": {"root": str(root)}}}
    config = configuration.complete(config)
    prepare.prepare(config, "camvid")
    return read_json(runs.manifest(config, "camvid").path)


def test_camvid_is_read_with_void_as_255(camvid: Path) -> None:
    dataset = CamVid(str(camvid))
    image, labels = dataset.read("train", "train_0")
    on_file = np.array(Image.open(camvid / "trainannot" / "train_0.png"))
    assert np.array_equal(image, np.array(Image.open(camvid / "train" / "train_0.png")))
    assert np.array_equal(labels == 255, on_file == 11)
    assert np.array_equal(labels[on_file < 11], on_file[on_file < 11])


def test_the_environment_says_where_camvid_is(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMVID_ROOT", str(camvid))
    assert CamVid().names("val") == ["val_0", "val_1"]


def test_the_manifest_says_what_is_there(camvid: Path, tiny: dict) -> None:
    manifest = prepared(camvid, tiny)
    assert {split: len(s["names"]) for split, s in manifest["splits"].items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
    }
    train = manifest["splits"]["train"]
    assert train["sizes"] == ["48x36"]
    assert sum(train["pixels"].values()) + train["void_pixels"] == 3 * 36 * 48
    assert len(manifest["content_sha256"]) == 64


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def write(path: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(content)


def labels(path: str, content: np.ndarray) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(content.astype(np.uint8)).save(root / path)


BROKEN = [
    (remove("train.txt"), r"train.txt is missing: CAMVID_ROOT or dataset_options.camvid.root"),
    (write("val.txt", b""), "val.txt lists no images"),
    (write("val.txt", b"only_one_column.png\n"), "val.txt, line 1: must name an image and its label map"),
    (write("val.txt", b"a/x.png b/x.png\na/x.png b/x.png\n"), "line 2: the image x is listed twice"),
    (write("val.txt", b"\xff\xfe\x00"), "val.txt cannot be read"),
    (remove("train/train_1.png"), "train/train_1.png is missing"),
    (remove("testannot/test_0.png"), "testannot/test_0.png is missing"),
    (write("train/train_1.png", b""), "train_1.png cannot be read as a picture"),
    (write("train/train_1.png", b"\x89PNG\r\n\x1a\n broken"), "train_1.png cannot be read as a picture"),
    (labels("valannot/val_0.png", np.full((36, 48), 12)), r"val_0.png has the labels \[12\]: only 0–10"),
    (labels("valannot/val_0.png", np.zeros((35, 48))), "is 48×35 but its image is 48×36"),
    (labels("valannot/val_0.png", np.zeros((36, 48, 3))), "has several channels"),
]


@pytest.mark.parametrize(("damage", "sentence"), BROKEN, ids=[sentence[:40] for _, sentence in BROKEN])
def test_broken_data_is_one_sentence(camvid: Path, tiny: dict, damage: Callable, sentence: str) -> None:
    damage(camvid)
    with pytest.raises(UserError, match=sentence) as caught:
        prepared(camvid, tiny)
    assert "\n" not in str(caught.value)
    errors = list(Path(tiny["results"]).glob("datasets/*.error.json"))
    assert read_json(errors[0])["kind"] == "input"


def test_every_bad_file_is_reported(camvid: Path, tiny: dict) -> None:
    (camvid / "train/train_0.png").unlink()
    (camvid / "valannot/val_1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((36, 48), 77, np.uint8)).save(camvid / "testannot/test_1.png")
    with pytest.raises(UserError, match="has 3 problems") as caught:
        prepared(camvid, tiny)
    for name in ("train_0", "val_1", "test_1"):
        assert name in str(caught.value)


def test_an_image_in_two_splits_is_reported(camvid: Path, tiny: dict) -> None:
    (camvid / "val.txt").write_text("/train/train_0.png /trainannot/train_0.png\n")
    with pytest.raises(UserError, match="train_0 is in both train and val"):
        prepared(camvid, tiny)


def test_a_failure_that_is_mended_leaves_no_error_behind(camvid: Path, tiny: dict) -> None:
    text = (camvid / "val.txt").read_text()
    (camvid / "val.txt").write_text("")
    with pytest.raises(UserError):
        prepared(camvid, tiny)
    (camvid / "val.txt").write_text(text)
    prepared(camvid, tiny)
    assert not list(Path(tiny["results"]).glob("datasets/*.error.json"))


def test_an_unknown_place_is_one_sentence(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", "/nowhere")
    config = configuration.complete(tiny | {"datasets": ["camvid"], "dataset_options": {}})
    with pytest.raises(UserError, match="set the environment variable CAMVID_ROOT") as caught:
        prepare.prepare(config, "camvid")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_camvid() -> None:
    dataset = CamVid()
    assert [len(dataset.names(split)) for split in dataset.splits] == [367, 101, 233]
    content, panel = prepare.inspect(dataset, "camvid")
    assert content["splits"]["test"]["sizes"] == ["480x360"]
    assert panel["test_image_0"].shape == (360, 480, 3)
