"""Checkpoints: what they keep, whose they are, and what happens to a damaged one."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import reading
from common.config.entries import Config
from common.errors import DiskFull, UserError
from common.networks.structured import StructuredNetwork
from common.runs import plan, recipes
from common.runs.records import LogLine
from common.training.checkpoints import Checkpoint, Checkpoints, Origin, Position
from common.training.step import build, make_optimizer
from tests.synthetic import provenance

LINE = LogLine(1, 2.5, 0.1, 10.0, 0.5, 3.0, {"dual": 4.0})


@pytest.fixture
def pair(tiny: Config) -> tuple[StructuredNetwork, torch.optim.Optimizer]:
    config = reading.complete(tiny | {"methods": ["ddcrf"]})
    training = plan.training(config, "digits", "deeplabv3plus-test_resnet", "ddcrf", 0)
    model = build(training)
    return model, make_optimizer(model, training.settings)


def step(model: StructuredNetwork, optimizer: torch.optim.Optimizer) -> None:
    """Moves all weights."""
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()


def test_a_checkpoint_brings_back_what_it_was_made_of(
    pair: tuple[StructuredNetwork, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = pair
    step(model, optimizer)
    Checkpoints(tmp_path, "this").save(Checkpoint.of(Position(1, 3.0, [LINE]), model, optimizer))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    step(model, optimizer)
    weight = "method.left.weight"
    assert not torch.equal(model.state_dict()[weight], before[weight])

    assert Checkpoints(tmp_path, "this").resume(model, optimizer) == Position(1, 3.0, [LINE])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    restored = [state["exp_avg"] for state in optimizer.state.values()]
    assert all(map(torch.equal, restored, moments))


def test_the_one_before_stands_in_for_a_damaged_one_and_another_trainings_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, "this")
    assert checkpoints.latest() is None
    for iteration in (2, 4):
        checkpoints.save(Checkpoint(Position(iteration), {}, {}, {}))
    assert checkpoints.latest().position.iteration == 4
    assert Checkpoints(tmp_path, "another").latest() is None
    assert checkpoints.current.exists() and checkpoints.previous.exists()
    torch.save({"iteration": 4, "digest": "this"}, checkpoints.current)
    assert checkpoints.latest().position.iteration == 2, "one that lacks something is as good as damaged"
    assert "checkpoint.pt is none (Object missing required field `seconds`)" in capsys.readouterr().out
    assert (
        not checkpoints.current.exists() and checkpoints.current.with_name("checkpoint.pt.damaged").exists()
    )
    checkpoints.clear()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (
            Origin("other", "w"),
            "the images or labels changed since the training in .* began: bring back those",
        ),
        (
            Origin("data", "other"),
            "the first weights changed since the training in .* began: bring back those",
        ),
        (Origin("data", None), "the first weights changed"),
    ],
)
def test_a_training_goes_on_with_the_same_data_and_weights_alone(
    now: Origin, sentence: str, pair: tuple[StructuredNetwork, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = pair
    checkpoints = Checkpoints(tmp_path / "state", "this", Origin("data", "w"))
    checkpoints.save(Checkpoint.of(Position(1), model, optimizer))
    with pytest.raises(UserError, match=f"{sentence}.*or delete .*state to begin anew"):
        Checkpoints(tmp_path / "state", "this", now).resume(model, optimizer)
    assert Checkpoints(tmp_path / "state", "this", Origin("data", "w")).resume(model, optimizer)


def test_every_process_of_a_training_is_remembered(
    pair: tuple[StructuredNetwork, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = pair
    origins = [Origin("data", None, [provenance(code=code)]) for code in "abc"]
    for number, origin in enumerate(origins):
        checkpoints = Checkpoints(tmp_path, "this", origin)
        assert checkpoints.resume(model, optimizer).iteration == number
        assert [one.code for one in checkpoints.origin.processes] == [*"abc"[: number + 1]]
        checkpoints.save(Checkpoint.of(Position(number + 1), model, optimizer))


def test_what_is_written_beside_the_training_is_the_state_of_its_time(
    pair: tuple[StructuredNetwork, torch.optim.Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = pair
    goes_on, save = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: goes_on.wait(60) and save(*arguments))
    checkpoints = Checkpoints(tmp_path, "this")
    step(model, optimizer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    lines = [LINE]
    with checkpoints.beside():
        checkpoints.begin(Checkpoint.of(Position(1, 3.0, lines), model, optimizer))
        step(model, optimizer)
        lines.append(LINE)
        assert not checkpoints.current.exists()
        goes_on.set()
    latest = checkpoints.latest()
    assert latest.position == Position(1, 3.0, [LINE])
    assert all(torch.equal(value, before[f"network.{key}"]) for key, value in latest.network.items())
    kept = [state["exp_avg"] for state in latest.optimizer["state"].values()]
    assert all(map(torch.equal, kept, moments))
    checkpoints.wait()


def test_a_checkpoint_that_could_not_be_written_is_told_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, "this")
    checkpoints.save(Checkpoint(Position(2), {}, {}, {}))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, checkpoints.beside():
        patch.setattr(torch, "save", full)
        checkpoints.begin(Checkpoint(Position(4), {}, {}, {}))
    with pytest.raises(DiskFull, match="checkpoint.pt cannot be written, the disk is full"):
        checkpoints.look()
    checkpoints.look()
    assert checkpoints.latest().position.iteration == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"], "nothing half-written is left"


def test_a_checkpoint_of_another_recipe_is_left_alone(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = reading.complete(tiny)
    before = plan.training(config, "digits", config["models"][0], "ce", 0)
    Checkpoints(before.state, before.digest).save(Checkpoint(Position(2), {}, {}, {}))
    changed = replace(recipes.TRAINING, changes=(*recipes.TRAINING.changes, "another rule"))
    monkeypatch.setattr(recipes, "TRAINING", changed)
    after = plan.training(config, "digits", config["models"][0], "ce", 0)
    assert after.state != before.state, "it has a place of its own"
    assert Checkpoints(before.state, after.digest).latest() is None
    assert Checkpoints(before.state, before.digest).latest().position.iteration == 2
