"""Validation while training: what it tells, and that the model is the same with and without."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.config import reading
from common.config.effects import without_effect
from common.config.entries import Config
from common.datasets.split import Sample, Split
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import Training
from common.runs.records import Metrics, TrainedModel, ValidationLine, read_log, read_validations
from common.scoring.sources import ComputedSource
from common.scoring.split import ScoredSplit
from common.stages import evaluate, prepare, train
from common.training import loop, monitor, validation
from common.training.group import ProcessGroup
from common.training.loop import train_model
from common.training.step import build
from methods.base import Method

MODEL = "deeplabv3plus-test_resnet"


def of(settings: Config, method: str = "ce", **execution: object) -> tuple[Config, Training]:
    """The training of a method, with its dataset prepared."""
    execution = settings["execution"] | execution
    config = reading.complete(settings | {"execution": execution, "methods": [method]})
    training = plan.training(config, config["datasets"][0], MODEL, method, 0)
    if not training.data.path.exists():
        prepare.prepare(training.data)
    return config, training


def trained(settings: Config, results: Path, method: str = "ce", **execution: object) -> Training:
    config, training = of(settings | {"results": str(results)}, method, **execution)
    train.train(training, plan.execution(config), config)
    return training


def weights(training: Training) -> str:
    return TrainedModel.read(training.file, training).state_sha256


def test_it_tells_what_evaluating_tells(tiny: Config, tmp_path: Path) -> None:
    tiny["evaluation"] = {"split": "val"}
    training = trained(tiny, tmp_path, validate_every=3)
    first, last = read_validations(training.log)
    assert (first.iteration, last.iteration) == (3, 4), "the last iterate is scored, too"
    run = plan.run(reading.complete(tiny | {"results": str(tmp_path)}), "digits", MODEL, "ce", 0)
    evaluate.evaluate(run, plan.execution(reading.complete(tiny)))
    scores = Metrics.read(run)
    assert (last.miou, last.pixel_accuracy, last.iou) == (scores.miou, scores.pixel_accuracy, scores.iou)
    assert last.images == scores.images == 2
    assert [line.iteration for line in read_log(training.log)] == [1, 2, 3, 4], "a kind of their own"


def test_the_model_is_the_same_with_and_without(tiny: Config, tmp_path: Path) -> None:
    """Dropout and BatchNorm's statistics included."""
    tiny["model_options"][MODEL] |= {"dropout": 0.5, "auxiliary_weight": 0.4}
    tiny["training"]["precision"] = "bfloat16"
    with_it = trained(tiny, tmp_path / "with", validate_every=1, workers=1)
    without = trained(tiny, tmp_path / "without", workers=1)
    assert with_it.digest == without.digest
    assert weights(with_it) == weights(without)
    assert [line.loss for line in read_log(with_it.log)] == [line.loss for line in read_log(without.log)]


def test_global_random_states_are_put_back(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, ...]] = []

    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def loss(self: Method, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        drawn.append(draw())
        return logits.square().mean()

    def refine(self: Method, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        draw()
        return probabilities

    monkeypatch.setattr("methods.ce.CrossEntropy.loss", loss)
    monkeypatch.setattr("methods.ce.CrossEntropy.refine", refine)
    for every in (0, 1):
        random.seed(1), np.random.seed(1)
        trained(tiny, tmp_path / str(every), validate_every=every)
    assert drawn[:4] == drawn[4:]


@pytest.mark.long
def test_the_model_is_the_same_where_the_network_is_compiled(tiny: Config, tmp_path: Path) -> None:
    tiny["training"] |= {"compile": True, "crop": [40, 40]}
    with_it = trained(tiny, tmp_path / "with", validate_every=1)
    assert weights(with_it) == weights(trained(tiny, tmp_path / "without"))


def test_two_processes_share_the_images(tiny: Config, tmp_path: Path) -> None:
    tiny["model_options"][MODEL]["freeze_batchnorm"] = True
    tiny["dataset_options"]["digits"]["val_images"] = 3
    two = trained(tiny, tmp_path / "two", gpus_per_run=2, validate_every=2)
    one = trained(tiny, tmp_path / "one", validate_every=2)
    for shared, alone in zip(read_validations(two.log), read_validations(one.log), strict=True):
        assert shared.images == alone.images == 3
        assert shared.miou == pytest.approx(alone.miou, abs=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("method", ["ce", "ddcrf"])
def test_two_processes_train_the_same_with_and_without(method: str, tiny: Config, tmp_path: Path) -> None:
    tiny["model_options"][MODEL] |= {"freeze_batchnorm": True, "dropout": 0.5}
    with_it, without = (
        trained(tiny, tmp_path / str(every), method, gpus_per_run=2, validate_every=every) for every in (1, 0)
    )
    assert weights(with_it) == weights(without)


def test_a_training_that_goes_on_may_begin_to_validate(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = weights(trained(tiny, tmp_path / "undisturbed"))
    original, calls = loop.training_step, []

    def failing(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 3:
            raise OSError("the machine failed")
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the machine failed"):
        patch.setattr(loop, "training_step", failing)
        trained(tiny, tmp_path, validate_every=2, checkpoint_every=2)
    training = trained(tiny, tmp_path, validate_every=1, validate_images=1)
    assert weights(training) == undisturbed
    lines = read_validations(training.log)
    assert [(line.iteration, line.images) for line in lines] == [(2, 2), (3, 1), (4, 1)]
    kinds = ["validation" in json.loads(line) for line in training.log.read_text().splitlines()]
    assert kinds == [False, False, True, False, True, False, True], "the log has no gap and nothing twice"


def test_its_time_is_no_time_of_training(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, clock, late = validation.Validation.score, monitor.time.monotonic, [0.0]

    def slow(*arguments: Any) -> validation.Validated | None:
        late[0] += 1000
        return original(*arguments)

    monkeypatch.setattr(validation.Validation, "score", slow)
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock() + late[0])
    training = trained(tiny, tmp_path, validate_every=1)
    assert late == [4000]
    assert TrainedModel.read(training.file).wall_seconds < 1000
    assert all(line.seconds < 1000 and line.images_per_second > 0.01 for line in read_log(training.log))


def test_tensorboard_shows_curves_pictures_and_settings_beside_scores(tiny: Config, tmp_path: Path) -> None:
    training = trained(tiny, tmp_path, validate_every=2)
    board = EventAccumulator(str(training.folder / "tensorboard")).Reload()
    lines = read_validations(training.log)
    curve = [(event.step, event.value) for event in board.Scalars("validation/miou")]
    assert curve == [(line.iteration, pytest.approx(line.miou, rel=1e-6)) for line in lines]
    assert {"validation/pixel_accuracy", "validation/iou/background"} <= {*board.Tags()["scalars"]}
    pictures = board.Images(board.Tags()["images"][0])
    assert [(picture.step, picture.width, picture.height) for picture in pictures] == [
        (2, 3 * 48, 48),
        (4, 3 * 48, 48),
    ]
    plugin = board.PluginTagToContent("hparams")
    assert b"learning_rate" in plugin["_hparams_/session_start_info"]
    assert b"validation/miou" in plugin["_hparams_/experiment"] and "_hparams_/session_end_info" in plugin


def test_after_sigterm_it_is_cut_short(tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = validation.score

    def warned(*arguments: Any) -> ScoredSplit:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(validation, "score", warned)
    config, training = of(tiny | {"results": str(tmp_path)}, validate_every=1)
    with pytest.raises(SystemExit, match="143"):
        train_model(training, plan.execution(config), ProcessGroup(0, 1, torch.device("cpu")))
    assert not read_validations(training.log)
    assert [line.iteration for line in read_log(training.log)] == [1, 2], "after the next step it ends"


def test_data_without_val_or_trained_on_it_are_not_validated(
    tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny["training"]["split"] = "train+val"
    config, _ = of(tiny, validate_every=2)
    sentence = "execution.validate_every has no effect on digits: val is trained on"
    assert sentence in without_effect(config, [config, tiny])
    training = trained(tiny, tmp_path, validate_every=2)
    assert "digits is not validated while training: val is trained on" in capsys.readouterr().out
    assert not read_validations(training.log)
    training.data.dataset.splits = ("train", "test")
    assert training.data.dataset.not_validated("train") == "it has no split val"


def test_images_without_a_label_are_a_sentence(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Split.__getitem__

    def unlabelled(self: Split, index: int) -> Sample:
        sample = original(self, index)
        return sample._replace(labels=torch.full_like(sample.labels, 255))

    config, training = of(tiny | {"results": str(tmp_path)}, validate_every=2, workers=0)
    model = build(training)
    scoring = validation.Validation(
        training,
        training.data.manifest(),
        plan.execution(config),
        ProcessGroup(0, 1, torch.device("cpu")),
        model,
    )
    monkeypatch.setattr(Split, "__getitem__", unlabelled)
    with pytest.raises(UserError, match="no pixel of the 2 images of val that are scored is labelled"):
        scoring.score(model, 2, lambda: False)


def test_a_line_comes_back_as_it_was(tmp_path: Path) -> None:
    line = ValidationLine(3, "val", 2, 0.5, 0.75, {"road": 0.5, "sky": None}, 1.5)
    path = tmp_path / "training.jsonl"
    path.write_text(json.dumps(line.flat()) + "\n" + json.dumps(replace(line, iteration=4).flat())[:-3])
    assert read_validations(path) == [line]
    assert read_log(path) == []
    assert [*line.scalars()] == ["validation/miou", "validation/pixel_accuracy", "validation/iou/road"]


def test_a_training_that_is_validated_has_not_ended(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring may take longer than `status` waits for a line of the log."""
    original = ComputedSource.predict
    log = of(tiny | {"results": str(tmp_path)})[1].log
    ages: list[float] = []

    def slow(self: ComputedSource, *arguments: Any) -> Any:
        ages.append(time.time() - log.stat().st_mtime)
        os.utime(log, (0, 0))
        return original(self, *arguments)

    monkeypatch.setattr(ComputedSource, "predict", slow)
    trained(tiny, tmp_path, validate_every=4)
    assert len(ages) == 2 and max(ages) < 60


@pytest.mark.gpu
def test_on_a_gpu(tiny: Config, tmp_path: Path) -> None:
    tiny["execution"]["device"] = "cuda"
    training = trained(tiny, tmp_path, validate_every=2)
    assert [line.iteration for line in read_validations(training.log)] == [2, 4]
    before = torch.cuda.get_rng_state()
    with validation._random_states_kept(torch.device("cuda", 0)):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
