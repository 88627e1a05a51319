"""The manifest of a dataset, and everything that can be wrong with files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import reading
from common.datasets.manifest import Manifest
from common.errors import UnreadableRecord, UserError
from common.failures import Failure
from common.runs import plan
from common.runs.jobs import Preparation
from common.stages import prepare
from tests.conftest import ROOT, run


@pytest.fixture
def job(camvid: Path, tiny: dict) -> Preparation:
    config = tiny | {"datasets": ["camvid"], "dataset_options": {"camvid": {"root": str(camvid)}}}
    return plan.preparation(reading.complete(config), "camvid")


def again(job: Preparation) -> Preparation:
    """The job with a dataset that has not been looked at."""
    return Preparation(type(job.dataset)(**job.options), job.options, job.digest, job.results)


def test_the_manifest_says_what_is_there(job: Preparation) -> None:
    prepare.prepare(job)
    manifest = job.manifest()
    assert {name: len(split.names) for name, split in manifest.splits.items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
    }
    train = manifest.splits["train"]
    assert train.sizes == ["48x36"]
    assert sum(train.pixels.values()) + train.void_pixels == 3 * 36 * 48
    assert len(manifest.content_sha256) == 64
    assert (manifest.dataset, manifest.digest, manifest.void) == ("camvid", job.digest, 255)
    assert manifest.options == job.options and manifest.class_names[0] == "Sky"
    with np.load(job.panel) as panel:
        assert panel["test_image_1"].shape == (36, 48, 3) and panel["test_labels_1"].shape == (36, 48)


def test_a_manifest_comes_back_as_it_was_and_lacks_no_key(job: Preparation) -> None:
    prepare.prepare(job)
    manifest = job.manifest()
    other = job.results / "elsewhere" / job.path.name
    manifest.write(other)
    assert other.read_bytes() == job.path.read_bytes() and Manifest.read(other) == manifest
    content = json.loads(other.read_text())
    del content["splits"]["val"]["pixels"]
    other.write_text(json.dumps(content))
    with pytest.raises(UnreadableRecord, match="cannot be read .*pixels.*: delete it and run the prepare"):
        Manifest.read(other)
    with pytest.raises(UnreadableRecord, match="is missing: run the earlier stage"):
        Manifest.read(other.with_name("none.json"))


def test_a_manifest_of_another_dataset_is_refused(job: Preparation) -> None:
    prepare.prepare(job)
    manifest = job.manifest()
    for changes in ({"dataset": "voc"}, {"digest": "0" * 10}):
        dataclasses.replace(manifest, **changes).write(job.path)
        with pytest.raises(UnreadableRecord, match="does not belong there: it is of .*: delete it and run"):
            job.manifest()
    dataclasses.replace(manifest, class_names=["sky"]).write(job.path)
    with pytest.raises(UnreadableRecord, match="counts of other classes in train: delete it and run"):
        job.manifest()


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
def test_broken_data_is_one_sentence(camvid: Path, job: Preparation, damage: Callable, sentence: str) -> None:
    damage(camvid)
    with pytest.raises(UserError, match=sentence) as caught:
        prepare.prepare(job)
    assert "\n" not in str(caught.value)
    failure = Failure.read(job.error)
    assert (failure.kind, failure.stage) == ("input", "prepare")
    assert not job.path.exists() and not job.panel.exists()


def test_a_failure_that_is_mended_leaves_no_error_behind(camvid: Path, job: Preparation) -> None:
    text = (camvid / "val.txt").read_text()
    (camvid / "val.txt").write_text("")
    with pytest.raises(UserError):
        prepare.prepare(job)
    (camvid / "val.txt").write_text(text)
    prepare.prepare(again(job))
    assert not job.error.exists() and job.path.exists()


def test_an_unknown_place_is_one_sentence(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", "/nowhere")
    config = reading.complete(tiny | {"datasets": ["camvid"], "dataset_options": {}})
    with pytest.raises(UserError, match="set the environment variable CAMVID_ROOT") as caught:
        prepare.prepare(plan.preparation(config, "camvid"))
    assert "\n" not in str(caught.value)


def test_the_verb(tiny: dict, tmp_path: Path) -> None:
    config = reading.complete(tiny)
    job = plan.preparation(config, "digits")
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ("common", "prepare", "--configfile", str(tmp_path / "config.json"), "--dataset", "digits")
    refused = run(*arguments, "--digest", "0", cwd=ROOT, check=False)
    assert refused.returncode == 2 and "has changed since the workflow began" in refused.stderr
    done = run(*arguments, "--digest", job.digest, cwd=ROOT)
    assert done.stdout.strip() == str(job.path) and job.manifest().dataset == "digits"
