"""Training: schedules, streams, resuming after kill -9, and losses that are not finite."""

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
import yaml

from common import config as configuration
from common import prepare, runs, train
from common.config import Config
from common.errors import Diverged, UserError
from common.files import locked, read_json
from methods.base import Method
from tests.conftest import ROOT

MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")


def trained(config: Config, method: str = "ce", seed: int = 0) -> dict:
    training = runs.training(config, "digits", MODEL, method, seed)
    if not training.manifest.path.exists():
        prepare.prepare(config, "digits")
    train.train(config, training)
    return torch.load(training.file, weights_only=True)


def equal_weights(a: dict, b: dict) -> bool:
    parts = ("network", "method_state")
    return all(
        a[part].keys() == b[part].keys() and all(torch.equal(a[part][k], b[part][k]) for k in a[part])
        for part in parts
    )


# Schedules


def settings(**changes: object) -> dict:
    base = {"datasets": ["digits"], "models": [MODEL], "methods": ["ce"], "seeds": [0]}
    config = configuration.complete(base | {"training": {"iterations": 100, "learning_rate": 1.0} | changes})
    return configuration.settings(config, "training", "digits", MODEL)


def rates(**changes: object) -> list[float]:
    return [train.learning_rate(settings(**changes), iteration) for iteration in range(100)]


def test_poly() -> None:
    found = rates()
    assert found[0] == 1
    assert found[50] == pytest.approx(0.5**0.9)
    assert found == sorted(found, reverse=True)


def test_cosine() -> None:
    found = rates(schedule="cosine")
    assert found[0] == 1 and found[50] == pytest.approx(0.5)


def test_step() -> None:
    found = rates(schedule="step", step_at=[0.5, 0.75])
    assert (found[49], found[50], found[74], found[75]) == pytest.approx((1, 0.1, 0.1, 0.01))


def test_warm_up_is_linear_and_the_schedule_takes_the_rest() -> None:
    found = rates(warmup=10, warmup_factor=0.1)
    assert found[:3] == pytest.approx([0.1, 0.19, 0.28])
    assert found[10] == 1
    assert found[55] == pytest.approx(0.5**0.9)


# The optimiser


def test_groups_of_the_optimiser(tiny: Config) -> None:
    config = configuration.complete(tiny | {"methods": ["ddcrf"]})
    training = runs.training(config, "digits", MODEL, "ddcrf", 0)
    network, method = train.build(config, training, 11)
    optimizer = train.make_optimizer(network, method, settings(head_multiplier=10.0, weight_decay=0.1))
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for module, multiplier in (
        (network.encoder, 1),
        (network.decoder, 10),
        (network.classifier, 10),
        (method, 10),
    ):
        for parameter in module.parameters():
            group = groups[id(parameter)]
            assert group["multiplier"] == multiplier
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
    assert len(groups) == sum(1 for m in (network, method) for _ in m.parameters())
    train.set_learning_rate(optimizer, settings(), 50)
    assert groups[id(method.left.weight)]["lr"] == pytest.approx(10 * 0.5**0.9)


# Streams


def test_all_methods_of_a_seed_start_with_the_same_network(tiny: Config) -> None:
    config = configuration.complete(tiny | {"methods": ["ce", "rmi", "ddcrf"], "seeds": [0, 1]})
    networks = {
        (name, seed): train.build(config, runs.training(config, "digits", MODEL, name, seed), 11)[0]
        for name in config["methods"]
        for seed in config["seeds"]
    }
    first = networks["ce", 0].state_dict()
    for name in ("rmi", "ddcrf"):
        other = networks[name, 0].state_dict()
        assert all(torch.equal(first[key], other[key]) for key in first)
    weight = "classifier.weight"
    assert not torch.equal(first[weight], networks["ce", 1].state_dict()[weight])


def test_training_is_repeatable_and_learns(tiny: Config, tmp_path: Path) -> None:
    config = configuration.complete(tiny)
    one = trained(config)
    two = trained(config | {"results": str(tmp_path / "again")})
    assert equal_weights(one, two)
    start, _ = train.build(config, runs.training(config, "digits", MODEL, "ce", 0), 11)
    weight = "classifier.weight"
    assert not torch.equal(start.state_dict()[weight], one["network"][weight])


def test_accumulated_batches_give_the_gradient_of_the_large_batch(tiny: Config) -> None:
    """With frozen normalisation and no void, two batches of two are one of four."""
    config = configuration.complete(tiny)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    images = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8)
    labels = torch.randint(11, (4, 48, 48))
    steps = []
    for accumulate in (1, 2):
        network, method = train.build(config, training, 11)
        network.eval()
        chosen = settings(accumulate=accumulate, optimizer="sgd", momentum=0.0, learning_rate=0.1)
        optimizer = train.make_optimizer(network, method, chosen)
        train.set_learning_rate(optimizer, chosen, 0)
        batches = zip(images.chunk(accumulate), labels.chunk(accumulate))
        options = config["model_options"][MODEL]
        loss = train.training_step(network, method, optimizer, batches, chosen, options, CPU, 0)
        steps.append((loss, network.state_dict()))
    torch.testing.assert_close(steps[0][0], steps[1][0])
    for key, value in steps[0][1].items():
        torch.testing.assert_close(value, steps[1][1][key], atol=1e-5, rtol=1e-4)


def test_bfloat16_and_the_auxiliary_classifier(tiny: Config) -> None:
    tiny["training"]["precision"] = "bfloat16"
    tiny["model_options"][MODEL]["auxiliary_weight"] = 0.4
    model = trained(configuration.complete(tiny | {"methods": ["ddcrf"]}), "ddcrf")
    assert any(key.startswith("auxiliary") for key in model["network"])
    assert all(v.isfinite().all() for v in model["network"].values())
    assert model["network"]["classifier.weight"].dtype == torch.float32


# Records


def test_the_model_says_how_it_came_to_be(tiny: Config) -> None:
    config = configuration.complete(tiny)
    model = trained(config)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    assert model["digest"] == training.digest
    assert model["training"]["iterations"] == 4
    assert model["wall_seconds"] > 0 and model["peak_memory"] > 0
    assert {"commit", "packages", "device", "written"} <= model["provenance"].keys()
    lines = [json.loads(line) for line in training.log.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "images_per_second", "seconds"} <= lines[0].keys()
    assert all(0 < line["waiting_for_data"] < 1 for line in lines)
    assert list((training.folder / "tensorboard").iterdir())
    left = {path.name for path in (training.folder / "state").glob("*.pt")}
    assert left == {"finished.pt"}, "checkpoints go when they are not needed"


def test_a_finished_model_that_snakemake_deleted_is_brought_back(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.complete(tiny)
    before = trained(config)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    training.file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(train, "_train", None)
        assert equal_weights(trained(config), before)
    training.file.unlink()
    (training.folder / "state" / "finished.pt").write_bytes(b"damaged")
    assert equal_weights(trained(config), before), "a damaged one is trained again"


# Faults


@pytest.mark.parametrize("method", ["ce", "ddcrf"])
def test_killed_and_the_same_command_again_gives_the_same_weights(
    method: str, tiny: Config, tmp_path: Path
) -> None:
    tiny["training"] |= {"iterations": 200, "momentum": 0.9, "optimizer": "sgd"}
    tiny["execution"] |= {"checkpoint_every": 5, "log_every": 1, "workers": 1}
    tiny["model_options"][MODEL]["dropout"] = 0.5
    tiny["methods"] = [method]
    undisturbed = trained(configuration.complete(tiny | {"results": str(tmp_path / "undisturbed")}), method)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny))
    config = configuration.complete(tiny)
    prepare.prepare(config, "digits")
    training = runs.training(config, "digits", MODEL, method, 0)
    command = [sys.executable, "-m", "common.train", "--configfile", str(file), "--threads", "1"]
    command += ["--dataset", "digits", "--model", MODEL, "--method", method, "--seed", "0"]
    for least, how in ((12, signal.SIGKILL), (31, signal.SIGKILL), (55, signal.SIGTERM)):
        quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet)
        deadline = time.monotonic() + 120
        while not training.log.exists() or len(training.log.read_text().splitlines()) < least:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, how)  # the processes that load the data too
        process.wait()
        assert not training.file.exists() and not (training.folder / "error.json").exists()
        if how == signal.SIGTERM:
            assert process.returncode == 143, "it ends by itself, after it has saved a checkpoint"
            saved = torch.load(training.folder / "state" / "checkpoint.pt", weights_only=True)
            assert saved["iteration"] == len(training.log.read_text().splitlines())
        assert (training.folder / "state" / "checkpoint.pt").exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert equal_weights(torch.load(training.file, weights_only=True), undisturbed)
    iterations = [json.loads(line)["iteration"] for line in training.log.read_text().splitlines()]
    assert iterations == list(range(1, 201)), "the log has no gap and nothing twice"


def interrupted(config: Config, monkeypatch: pytest.MonkeyPatch, at: int) -> runs.Training:
    """Trains until iteration `at`, then fails as if the machine did."""
    training = runs.training(config, "digits", MODEL, "ce", 0)
    prepare.prepare(config, "digits")
    original, calls = train.training_step, []

    def failing(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) > at:
            raise OSError("the machine failed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "training_step", failing)
        with pytest.raises(OSError, match="the machine failed"):
            train.train(config, training)
    return training


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny["training"]["iterations"] = 8
    undisturbed = trained(configuration.complete(tiny | {"results": str(tmp_path / "undisturbed")}))
    config = configuration.complete(tiny)
    training = interrupted(config, monkeypatch, at=5)
    assert read_json(training.folder / "error.json")["error"] == "OSError: the machine failed"
    checkpoint = training.folder / "state" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    checkpoints = train.Checkpoints(training.folder / "state", training.digest)
    assert checkpoints.latest()["iteration"] == 2
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        checkpoints.save({"iteration": 4})
    assert checkpoints.latest()["iteration"] == 2, "the damaged one has not taken its place"
    assert equal_weights(trained(config), undisturbed)
    assert "is damaged" in capsys.readouterr().out
    assert not (training.folder / "error.json").exists()


def test_a_checkpoint_of_another_training_is_never_used(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = interrupted(configuration.complete(tiny), monkeypatch, at=3)
    folder = training.folder / "state"
    assert train.Checkpoints(folder, training.digest).latest()
    assert train.Checkpoints(folder, "another").latest() is None


def test_a_second_process_is_kept_out(tiny: Config) -> None:
    config = configuration.complete(tiny)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    with (
        locked(training.folder / "state" / "lock"),
        pytest.raises(UserError, match=f"is being written by process {os.getpid()}"),
    ):
        train.train(config, training)
    assert not (training.folder / "error.json").exists()


def test_a_loss_that_is_not_finite_names_the_iteration(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def loss(self: Method, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits.sum() * (float("nan") if len(calls) == 3 else 0)

    monkeypatch.setattr("methods.ce.CrossEntropy.loss", loss)
    tiny["execution"]["log_every"] = 4
    tiny["execution"]["checkpoint_every"] = 100
    config = configuration.complete(tiny)
    with pytest.raises(Diverged, match="the loss is nan at iteration 3: lower training.learning_rate"):
        trained(config)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    failure = read_json(training.folder / "error.json")
    assert failure["kind"] == "diverged" and "iteration 3" in failure["error"]
    assert not training.file.exists()


def test_a_method_that_refuses_its_input_is_one_sentence(tiny: Config) -> None:
    tiny |= {"methods": ["rmi"], "method_options": {"rmi": {"radius": 10, "pool_size": 8}}}
    config = configuration.complete(tiny)
    with pytest.raises(UserError, match="the method refuses its input: the pooled image of 7×7 is smaller"):
        trained(config, "rmi")


def test_a_device_that_is_not_there_is_the_reason_of_the_row(tiny: Config) -> None:
    tiny["execution"]["device"] = "cuda:7"
    config = configuration.complete(tiny)
    with pytest.raises(UserError, match="'cuda:7' is not on this machine"):
        trained(config)
    training = runs.training(config, "digits", MODEL, "ce", 0)
    assert "cuda:7" in read_json(training.folder / "error.json")["error"]


@pytest.mark.gpu
def test_training_on_the_gpu(tiny: Config) -> None:
    tiny["execution"]["device"] = "cuda"
    config = configuration.complete(tiny | {"methods": ["ddcrf"]})
    prepare.prepare(config, "digits")
    training = runs.training(config, "digits", MODEL, "ddcrf", 0)
    train.train(config, training)
    model = torch.load(training.file, weights_only=True, map_location="cpu")
    assert all(v.isfinite().all() for v in model["network"].values())
