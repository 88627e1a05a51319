"""Exported runs: one file that computes, without this project, what was evaluated."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.config import reading
from common.config.entries import Config
from common.config.settings import EvaluationSettings
from common.datasets.split import Split
from common.errors import UserError
from common.prediction.export import Exported, export
from common.prediction.predictor import View, labels_of, views
from common.prediction.stored_run import StoredRun
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.scoring.counts import SplitCounts
from common.scoring.metrics import confusion
from common.stages import evaluate, prepare, train
from common.stages import export as stage
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"
METHODS = ["ce", "bce", "ddcrf", "crfrnn", "crf-1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    torch.set_num_threads(1)
    content = yaml.safe_load(yaml.safe_dump(TINY)) | {"methods": METHODS}
    content["training"]["iterations"] = 2
    content["results"] = str(tmp_path_factory.mktemp("results"))
    config = reading.complete(content)
    execution = plan.execution(config)
    prepare.prepare(plan.preparation(config, "digits"))
    for each in plan.runs(config):
        train.train(each.training, execution)
    for method in ("bce", "crf-1"):
        evaluate.evaluate(scored(config, method), execution)
    return config


def scored(config: Config, method: str) -> TrainedRun:
    return plan.run(config, "digits", MODEL, method, 0)


def trained(config: Config, method: str) -> StoredRun:
    return StoredRun.read(scored(config, method).training.folder)


def images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_three_lines_of_pytorch_give_what_was_evaluated(config: Config, tmp_path: Path) -> None:
    """In a process that does not find this project; the confusion counts of every image are the same."""
    evaluated = scored(config, "bce")  # its probabilities are no softmax
    export(StoredRun.read(evaluated.folder), tmp_path / "model.pt", "torchscript")
    split = Split(evaluated.data.dataset, evaluated.data.manifest(), "test")
    torch.save(torch.stack([sample.image for sample in split]), tmp_path / "images.pt")
    lines = (
        "import torch; images = torch.load('images.pt')\n"
        "model = torch.jit.load('model.pt')\n"
        "torch.save(model(images), 'probabilities.pt')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", lines], cwd=tmp_path, env=environment, check=True)
    labels = labels_of(torch.load(tmp_path / "probabilities.pt"))
    expected = SplitCounts.read(evaluated.per_image).confusion
    for index, sample in enumerate(split):
        assert np.array_equal(confusion(labels[index], sample.labels, 11), expected[index])


def test_torchscript_takes_any_size_and_type(config: Config, tmp_path: Path) -> None:
    stored = trained(config, "ce")
    export(stored, tmp_path / "model.pt", "torchscript")
    files = {"run.json": ""}
    model = torch.jit.load(tmp_path / "model.pt", _extra_files=files)
    assert json.loads(files["run.json"])["class_names"][:2] == ["background", "0"]
    reference = Exported(stored.predictor(torch.device("cpu"))).eval()
    with torch.no_grad():
        for shape in ((1, 3, 8, 8), (3, 3, 37, 81), (1, 3, 100, 50)):
            pictures = images(*shape)
            expected = reference(pictures)
            assert expected.shape == (shape[0], 11, *shape[2:])
            torch.testing.assert_close(model(pictures), expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(pictures.float()), expected, atol=1e-5, rtol=0)


@pytest.mark.long
def test_a_program_takes_any_size_and_type(config: Config, tmp_path: Path) -> None:
    stored = trained(config, "rmi")
    export(stored, tmp_path / "model.pt2", "program")
    files = {"run.json": ""}
    model = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    assert json.loads(files["run.json"])["method"] == "rmi"
    reference = Exported(stored.predictor(torch.device("cpu"))).eval()
    with torch.no_grad():
        for shape in ((3, 3, 37, 81), (2, 3, 100, 50), (4, 3, 64, 64)):
            pictures = images(*shape)
            torch.testing.assert_close(model(pictures), reference(pictures), atol=1e-5, rtol=0)


def test_onnx_takes_any_size(config: Config, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    stored = trained(config, "bce")
    export(stored, tmp_path / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["run"])
    assert metadata["method"] == "bce" and len(metadata["class_names"]) == 11
    reference = Exported(stored.predictor(torch.device("cpu"))).eval()
    with torch.no_grad():
        for shape in ((1, 3, 37, 81), (2, 3, 48, 48)):
            (probabilities,) = session.run(["probabilities"], {"images": images(*shape).numpy()})
            torch.testing.assert_close(
                torch.from_numpy(probabilities), reference(images(*shape)), atol=1e-4, rtol=0
            )


@pytest.mark.long
def test_onnx_of_one_size(config: Config, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    stored = trained(config, "ce")
    export(stored, tmp_path / "model.onnx", "onnx", size=(50, 61))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 50, 61]
    (probabilities,) = session.run(["probabilities"], {"images": images(1, 3, 50, 61).numpy()})
    reference = Exported(stored.predictor(torch.device("cpu"))).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(probabilities), reference(images(1, 3, 50, 61)), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("ddcrf", r"ddcrf computes with operators of its own \(structseg\), which only this project has"),
        (
            "crfrnn",
            r"with crfrnn cannot be written as torchscript \(PyTorch's exporter says: .*\): predict",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    method: str, sentence: str, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        export(trained(config, method), tmp_path / "model.pt", "torchscript")
    assert len(str(caught.value).splitlines()) == 1
    assert not [*tmp_path.iterdir()], "nothing is left"


def test_a_refinement_is_not_exported_silently(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"crf-1 refines .* export the model that it uses \(ce\)"):
        export(StoredRun.read(scored(config, "crf-1").folder), tmp_path / "model.pt", "torchscript")


def test_onnx_that_is_not_installed_is_one_sentence(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="onnx.* not installed: pip install -r requirements-extra.txt"):
        export(trained(config, "ce"), tmp_path / "model.onnx", "onnx")


VIEWS = views(EvaluationSettings("test", (0.75, 1, 1.25), True))


@pytest.mark.parametrize(("kind", "size"), [("torchscript", None), ("torchscript", (50, 61))])
def test_a_run_that_is_scored_with_flips_and_scales_is_exported_with_them(
    kind: str, size: tuple[int, int] | None, config: Config, tmp_path: Path
) -> None:
    stored = dataclasses.replace(trained(config, "ce"), views=VIEWS)
    export(stored, tmp_path / "model.pt", kind, size)
    files = {"run.json": ""}
    model = torch.jit.load(tmp_path / "model.pt", _extra_files=files)
    assert len(json.loads(files["run.json"])["views"]) == 6
    reference = Exported(stored.predictor(torch.device("cpu"))).eval()
    pictures = images(1, 3, 50, 61)
    with torch.no_grad():
        torch.testing.assert_close(model(pictures), reference(pictures), atol=1e-5, rtol=0)
        once = Exported(stored.predictor(torch.device("cpu"), (View(),))).eval()
        assert (once(pictures) - reference(pictures)).abs().max() > 1e-4


def test_a_plain_file_of_such_a_run_says_so(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = dataclasses.replace(trained(config, "ce"), views=VIEWS)
    monkeypatch.setattr(StoredRun, "read", lambda _: stored)
    (tmp_path / "metrics.json").touch()
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    arguments = [str(tmp_path / "model.pt"), "--run", str(tmp_path)]
    stage.run(parser.parse_args([*arguments, "--plain"]))
    assert "not the same as" in capsys.readouterr().out
    files = {"run.json": ""}
    torch.jit.load(tmp_path / "model.pt", _extra_files=files)
    metadata = json.loads(files["run.json"])
    assert len(metadata["views"]) == 1 and len(metadata["scored_views"]) == 6
    stage.run(parser.parse_args(arguments))
    assert ", the same as" in capsys.readouterr().out
