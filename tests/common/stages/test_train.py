"""Training: what it leaves, resuming after kill -9, and losses that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.config import reading
from common.config.entries import Config
from common.config.settings import TrainingSettings, typed
from common.errors import Diverged, UserError
from common.failures import Failure
from common.files import locked, write_json
from common.networks.options import ModelOptions
from common.runs import plan
from common.runs.jobs import Training
from common.runs.records import TrainedModel, read_log
from common.stages import prepare, train
from common.training import loop
from common.training.checkpoints import Checkpoints
from common.training.step import build
from methods.base import Method
from tests.conftest import ROOT

MODEL = "deeplabv3plus-test_resnet"


def of(config: Config, method: str = "ce") -> Training:
    """The training of a method, with its dataset prepared."""
    training = plan.training(config, "digits", MODEL, method, 0)
    if not training.data.path.exists():
        prepare.prepare(training.data)
    return training


def trained(config: Config, method: str = "ce") -> TrainedModel:
    training = of(config, method)
    train.train(training, plan.execution(config))
    return TrainedModel.read(training.file, training)


def equal_weights(a: TrainedModel, b: TrainedModel) -> bool:
    pairs = ((a.network, b.network), (a.method_state, b.method_state))
    return all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        for one, other in pairs
    )


def test_training_is_repeatable_and_learns(tiny: Config, tmp_path: Path) -> None:
    config = reading.complete(tiny)
    one = trained(config)
    two = trained(config | {"results": str(tmp_path / "again")})
    assert equal_weights(one, two)
    start = build(plan.training(config, "digits", MODEL, "ce", 0)).network.state_dict()
    weight = "classifier.weight"
    assert not torch.equal(start[weight], one.network[weight])


def test_bfloat16_and_the_auxiliary_classifier(tiny: Config) -> None:
    tiny["training"]["precision"] = "bfloat16"
    tiny["model_options"][MODEL]["auxiliary_weight"] = 0.4
    model = trained(reading.complete(tiny | {"methods": ["ddcrf"]}), "ddcrf")
    assert any(key.startswith("auxiliary") for key in model.network)
    assert all(v.isfinite().all() for v in model.network.values())
    assert model.network["classifier.weight"].dtype == torch.float32


def test_the_model_says_how_it_came_to_be(tiny: Config) -> None:
    config = reading.complete(tiny)
    model = trained(config)
    training = plan.training(config, "digits", MODEL, "ce", 0)
    assert model.digest == training.digest
    assert typed(TrainingSettings, model.training) == training.settings
    assert typed(ModelOptions, model.model_options) == training.model_options
    assert (model.method_module, model.method_options) == ("ce", training.entry.options)
    assert model.num_classes == len(model.class_names) == len(model.colours) == 11
    assert model.content_sha256 == training.data.manifest().content_sha256
    assert model.wall_seconds > 0 and model.peak_memory > 0
    assert model.provenance.packages["torch"] and model.provenance.device.endswith("1 threads")
    lines = read_log(training.log)
    assert [line.iteration for line in lines] == [1, 2, 3, 4]
    assert all(0 < line.waiting_for_data < 1 for line in lines)
    keys = ["iteration", "loss", "learning_rate", "images_per_second", "waiting_for_data", "seconds"]
    assert list(json.loads(training.log.read_text().splitlines()[0])) == keys
    assert list((training.folder / "tensorboard").iterdir())
    left = {path.name for path in training.state.glob("*.pt")}
    assert left == {"finished.pt"}, "checkpoints go when they are not needed"


def test_a_finished_model_that_snakemake_deleted_is_brought_back(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reading.complete(tiny)
    before = trained(config)
    training = plan.training(config, "digits", MODEL, "ce", 0)
    training.file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("common.training.train.train_model", None)
        assert equal_weights(trained(config), before)
    training.file.unlink()
    (training.state / "finished.pt").write_bytes(b"damaged")
    assert equal_weights(trained(config), before), "a damaged one is trained again"


@pytest.mark.long
@pytest.mark.parametrize("method", ["ddcrf", "ce"])
def test_killed_and_the_same_command_again_gives_the_same_weights(
    method: str, tiny: Config, tmp_path: Path
) -> None:
    tiny["training"] |= {"iterations": 200, "momentum": 0.9, "optimizer": "sgd"}
    tiny["execution"] |= {"checkpoint_every": 5, "log_every": 1, "workers": 1}
    tiny["model_options"][MODEL]["dropout"] = 0.5
    tiny["methods"] = [method]
    undisturbed = trained(reading.complete(tiny | {"results": str(tmp_path / "undisturbed")}), method)
    config = reading.complete(tiny)
    file = tmp_path / "config.json"
    write_json(file, config)
    training = of(config, method)
    command = [sys.executable, "-m", "common", "train", "--configfile", str(file), "--threads", "1"]
    command += ["--dataset", "digits", "--model", MODEL, "--method", method, "--seed", "0"]
    for least, how in ((12, signal.SIGKILL), (31, signal.SIGKILL), (55, signal.SIGTERM), (75, signal.SIGINT)):
        quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet)
        deadline = time.monotonic() + 120
        while not training.log.exists() or len(training.log.read_text().splitlines()) < least:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, how)  # the processes that load the data too
        process.wait()
        assert not training.file.exists() and not training.error.exists()
        if how != signal.SIGKILL:
            assert process.returncode == 143, "it ends by itself, after it has saved a checkpoint"
            saved = torch.load(training.state / "checkpoint.pt", weights_only=True)
            assert saved["iteration"] == len(training.log.read_text().splitlines())
        assert (training.state / "checkpoint.pt").exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert equal_weights(TrainedModel.read(training.file), undisturbed)
    iterations = [json.loads(line)["iteration"] for line in training.log.read_text().splitlines()]
    assert iterations == list(range(1, 201)), "the log has no gap and nothing twice"


def interrupted(config: Config, monkeypatch: pytest.MonkeyPatch, at: int) -> Training:
    """Trains until iteration `at`, then fails as if the machine did."""
    training = of(config)
    original, calls = loop.training_step, []

    def failing(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) > at:
            raise OSError("the machine failed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", failing)
        with pytest.raises(OSError, match="the machine failed"):
            train.train(training, plan.execution(config))
    return training


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny["training"]["iterations"] = 8
    undisturbed = trained(reading.complete(tiny | {"results": str(tmp_path / "undisturbed")}))
    config = reading.complete(tiny)
    training = interrupted(config, monkeypatch, at=5)
    assert Failure.read(training.error).error == "OSError: the machine failed"
    checkpoint = training.state / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    checkpoints = Checkpoints(training.state, training.digest)
    latest = checkpoints.latest()
    assert latest.position.iteration == 2
    assert [line.iteration for line in latest.position.log] == [1, 2]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        checkpoints.save(latest)
    assert checkpoints.latest().position.iteration == 2, "the damaged one has not taken its place"
    assert equal_weights(trained(config), undisturbed)
    assert "was renamed to checkpoint.pt.damaged, and training goes on without it" in capsys.readouterr().out
    assert not training.error.exists()


def test_a_checkpoint_of_another_training_is_never_used(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = interrupted(reading.complete(tiny), monkeypatch, at=3)
    folder = training.state
    assert Checkpoints(folder, training.digest).latest()
    assert Checkpoints(folder, "another").latest() is None


def test_a_second_process_is_kept_out(tiny: Config) -> None:
    config = reading.complete(tiny)
    training = plan.training(config, "digits", MODEL, "ce", 0)
    with (
        locked(training.state / "lock"),
        pytest.raises(UserError, match=f"is being written by process {os.getpid()}"),
    ):
        train.train(training, plan.execution(config))
    assert not training.error.exists()


def test_a_loss_that_is_not_finite_names_the_iteration(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def loss(self: Method, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits.sum() * (float("nan") if len(calls) == 3 else 0)

    monkeypatch.setattr("methods.ce.CrossEntropy.loss", loss)
    tiny["execution"]["log_every"] = 4
    tiny["execution"]["checkpoint_every"] = 100
    config = reading.complete(tiny)
    with pytest.raises(Diverged, match="the loss is nan at iteration 3: lower training.learning_rate"):
        trained(config)
    training = plan.training(config, "digits", MODEL, "ce", 0)
    failure = Failure.read(training.error)
    assert failure.kind == "diverged" and "iteration 3" in failure.error
    assert not training.file.exists()


def test_a_method_that_refuses_its_input_is_one_sentence(tiny: Config) -> None:
    tiny |= {"methods": ["rmi"], "method_options": {"rmi": {"radius": 10, "pool_size": 8}}}
    config = reading.complete(tiny)
    with pytest.raises(
        UserError, match="methods/rmi.py: loss refuses its input: the pooled image of 7×7 is smaller"
    ):
        trained(config, "rmi")


def test_a_device_that_is_not_there_is_the_reason_of_the_row(tiny: Config) -> None:
    tiny["execution"]["device"] = "cuda:7"
    config = reading.complete(tiny)
    with pytest.raises(UserError, match="'cuda:7' is not on this machine"):
        trained(config)
    training = plan.training(config, "digits", MODEL, "ce", 0)
    assert "cuda:7" in Failure.read(training.error).error


@pytest.mark.gpu
def test_training_on_the_gpu(tiny: Config) -> None:
    tiny["execution"]["device"] = "cuda"
    config = reading.complete(tiny | {"methods": ["ddcrf"]})
    model = trained(config, "ddcrf")
    assert all(v.isfinite().all() for v in model.network.values())
