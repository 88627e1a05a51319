"""Pretrained weights are told apart by content, wherever they lie, and known where they are not at hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from common.config import reading
from common.config.entries import Config
from common.errors import Unreachable, UserError
from common.networks import weight_files
from common.networks.network import Network
from common.runs import plan
from common.runs.jobs import Training
from common.runs.weights import WeightsFile, identity
from common.training.step import build
from tests.common.datasets.prepared import call

MODEL = "deeplabv3plus-test_resnet"


def planned(tiny: Config, weights: Path | str) -> Training:
    """The training of a configuration with some weights."""
    tiny["model_options"][MODEL]["weights"] = str(weights)
    return plan.training(reading.complete(yaml.safe_load(yaml.safe_dump(tiny))), "digits", MODEL, "ce", 0)


def backbone(path: Path, tiny: Config, seed: int = 0) -> Path:
    """A file of weights that the tiny model can load."""
    training = planned(tiny, "none")
    torch.manual_seed(seed)
    network = Network(MODEL, 3, training.model_options)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.encoder.model.state_dict(), path)
    return path


def record(tiny: Config, name: str = "x.pt") -> Path:
    return WeightsFile.path(Path(tiny["results"]), name)


def test_the_content_and_not_the_place_is_part_of_the_digest(tiny: Config, tmp_path: Path) -> None:
    path = backbone(tmp_path / "a/x.pt", tiny)
    training = planned(tiny, path)
    assert training.weights_sha256 == weight_files.file_sha256(path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert planned(tiny, tmp_path / "b/x.pt").digest == training.digest
    tiny["results"] = str(tmp_path / "others")
    assert planned(tiny, backbone(tmp_path / "c/x.pt", tiny, 1)).digest != training.digest


def test_where_the_file_is_absent_the_record_says_what_it_was(tiny: Config, tmp_path: Path) -> None:
    path = backbone(tmp_path / "a/x.pt", tiny)
    digest = planned(tiny, path).digest
    path.unlink()
    assert planned(tiny, path).digest == planned(tiny, "x.pt").digest == digest
    record(tiny).unlink()
    assert planned(tiny, path).digest != digest, "nothing says what it was"


def test_a_file_is_read_once(tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = backbone(tmp_path / "a/x.pt", tiny)
    digest = planned(tiny, path).digest
    monkeypatch.setattr(weight_files, "file_sha256", lambda path: pytest.fail("it was read again"))
    assert planned(tiny, path).digest == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda path, tiny: backbone(path, tiny, 1),
        lambda path, tiny: path.write_bytes(b""),
        lambda path, tiny: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path, tiny: path.write_bytes(path.read_bytes()[:-1]),
    ],
)
def test_another_file_of_the_name_is_refused(
    change: Callable[[Path, Config], object], tiny: Config, tmp_path: Path
) -> None:
    path = backbone(tmp_path / "a/x.pt", tiny)
    planned(tiny, path)
    change(path, tiny)
    os.utime(path, ns=(1, 1))
    tiny["model_options"][MODEL]["weights"] = str(path)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny))
    status, errors = call("status", "--configfile", str(file))
    assert status == 2 and "Traceback" not in errors
    assert f"model_options.{MODEL}.weights: {path} is not the file of that name that results in" in errors
    assert "bring that file back, or give this one another name, or" in errors and str(record(tiny)) in errors
    path.rename(path.with_name("y.pt"))
    assert planned(tiny, path.with_name("y.pt")).weights_sha256


@pytest.mark.parametrize("content", ["5", "{}", "", '{"name": "x.pt", "sha256": 5, "seen": {}}', "[" * 100])
def test_a_damaged_record_is_one_sentence(content: str, tiny: Config, tmp_path: Path) -> None:
    path = backbone(tmp_path / "a/x.pt", tiny)
    record(tiny).parent.mkdir(parents=True)
    record(tiny).write_text(content)
    with pytest.raises(UserError, match=r"weights/x\.pt\.json cannot be read .*: delete it and run again"):
        planned(tiny, path)


def test_weights_that_change_before_they_are_loaded_are_refused(tiny: Config, tmp_path: Path) -> None:
    path = backbone(tmp_path / "x.pt", tiny)
    training = planned(tiny, path)
    assert build(training).network.weights_sha256 == training.weights_sha256
    backbone(path, tiny, 1)
    with pytest.raises(UserError, match="x.pt changed since this job was planned: bring that file back, or"):
        build(training)
    assert build(training, pretrained=False).network.weights_sha256 is None


def test_weights_of_the_hub_enter_by_name_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    content = identity("imagenet", "deeplabv3-resnet50", tmp_path).content
    assert content[1].startswith("smp-hub/resnet50.imagenet@") and len(content[1].partition("@")[2]) == 40
    assert identity("imagenet", "fcn-resnet50", tmp_path).content == content
    assert "timm/" in identity("imagenet", "upernet-convnext_tiny", tmp_path).content[1]
    monkeypatch.setattr(weight_files, "_asked", lambda backbone: pytest.fail("it is in the cache"))
    assert identity("imagenet", "deeplabv3-resnet50", tmp_path).content == content
    with pytest.raises(pytest.fail.Exception):
        monkeypatch.setattr(
            weight_files, "packages", lambda: {"segmentation-models-pytorch": "9", "timm": "9"}
        )
        identity("imagenet", "deeplabv3-resnet50", tmp_path)


def test_no_weights_need_no_record(tiny: Config) -> None:
    assert planned(tiny, "none").weights_sha256 is None
    assert not record(tiny).parent.exists()


def test_a_read_only_folder_of_results_is_no_obstacle(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise Unreachable("read-only")

    path = backbone(tmp_path / "a/x.pt", tiny)
    monkeypatch.setattr(WeightsFile, "write", write)
    assert planned(tiny, path).weights_sha256 == weight_files.file_sha256(path)
