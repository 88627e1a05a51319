"""One model trained by several processes is the model that one process trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import reading
from common.config.entries import Config
from common.errors import UserError
from common.failures import Failure
from common.runs import plan
from common.runs.jobs import Training
from common.runs.records import TrainedModel, read_log
from common.stages import prepare, train
from common.training.group import ProcessGroup
from common.training.step import build
from tests.conftest import ROOT

MODEL = "deeplabv3plus-test_resnet"
LOSS = 1e-4
"""How far two loss curves may be apart, relative to their values: float32, amplified by training."""
WEIGHTS = 1e-3
"""How far weights may be apart: AdamW shows a difference of rounding in a gradient near zero."""


@pytest.fixture
def frozen(tiny: dict) -> dict:
    """A configuration with all that could go wrong where a batch is shared: void, dropout, accumulation, …"""
    tiny["model_options"][MODEL] |= {"freeze_batchnorm": True, "auxiliary_weight": 0.4, "dropout": 0.5}
    tiny["training"] |= {
        "iterations": 6,
        "batch_size": 4,
        "accumulate": 2,
        "rotation": 90,
        "gradient_clip": 1,
    }
    return tiny


def prepared(settings: dict, results: Path, processes: int, method: str = "ce") -> tuple[Config, Training]:
    execution = settings["execution"] | {"gpus_per_run": processes}
    changes = {"results": str(results), "execution": execution, "methods": [method]}
    config = reading.complete(settings | changes)
    training = plan.training(config, config["datasets"][0], MODEL, method, 0)
    if not training.data.path.exists():
        prepare.prepare(training.data)
    return config, training


def trained(settings: dict, results: Path, processes: int, method: str = "ce") -> Training:
    config, training = prepared(settings, results, processes, method)
    train.train(training, plan.execution(config), config)
    assert TrainedModel.read(training.file, training).processes == processes
    return training


def losses(training: Training) -> list[float]:
    return [line.loss for line in read_log(training.log)]


def assert_same(one: Training, other: Training, tolerance: float = LOSS) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    first, second = (TrainedModel.read(training.file) for training in (one, other))
    for state, expected in (
        (first.network, second.network),
        (first.method_state, second.method_state),
    ):
        assert state.keys() == expected.keys()
        for key, value in state.items():
            torch.testing.assert_close(value, expected[key], atol=WEIGHTS, rtol=0)


def test_two_processes_train_the_model_of_one(frozen: dict, tmp_path: Path) -> None:
    one = trained(frozen, tmp_path / "one", 1)
    two = trained(frozen, tmp_path / "two", 2)
    assert one.digest == two.digest, "the result does not depend on it"
    assert_same(one, two)
    assert TrainedModel.read(two.file).provenance.device.startswith("2 × ")
    assert [line.iteration for line in read_log(two.log)] == [1, 2, 3, 4, 5, 6]
    assert len(list((two.folder / "tensorboard").iterdir())) == 1, "one process writes"
    assert {path.name for path in two.state.iterdir()} == {"config.json", "finished.pt", "lock"}


@pytest.mark.long
@pytest.mark.parametrize(
    "method", ["bce", "dice", "lovasz", "pyramid", "affinity", "rmi", "ddcrf", "crfrnn", "pointrend"]
)
def test_every_loss_is_that_of_the_whole_batch(method: str, frozen: dict, tmp_path: Path) -> None:
    frozen["method_options"]["rmi"] = {"pool_size": 2}
    assert_same(trained(frozen, tmp_path / "one", 1, method), trained(frozen, tmp_path / "two", 2, method))


@pytest.mark.long
def test_in_bfloat16(frozen: dict, tmp_path: Path) -> None:
    frozen["training"]["precision"] = "bfloat16"
    one, two = (trained(frozen, tmp_path / str(processes), processes) for processes in (1, 2))
    assert losses(one) == pytest.approx(losses(two), rel=1e-2)


def test_batchnorm_that_is_not_frozen_needs_gpus(tiny: dict) -> None:
    config = reading.complete(tiny)
    model = build(plan.training(config, "digits", MODEL, "ce", 0))
    with pytest.raises(
        UserError, match="BatchNorm can be synchronised between GPUs only: set freeze_batchnorm"
    ):
        ProcessGroup(0, 2, torch.device("cpu")).prepare(model)


def share_of_batchnorm(rank: int, size: int, config: Config, images: torch.Tensor, folder: Path) -> None:
    """What one of `size` processes on one GPU makes of its share; gloo, because NCCL wants a GPU for each."""
    if size > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=size)
    torch.backends.cudnn.allow_tf32 = False
    group = ProcessGroup(rank, size, torch.device("cuda", 0))
    network = build(plan.training(config, "digits", MODEL, "ce", 0)).network.to(group.device).train()
    group.prepare(network)
    module = group.wrap(network)
    unary = module(images.chunk(size)[rank].to(group.device)).unary
    unary.square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    buffers = [buffer for _, buffer in network.named_buffers()]
    torch.save((unary.detach().cpu(), buffers, gradients), folder / f"{size}-{rank}.pt")


@pytest.mark.gpu
def test_batchnorm_is_synchronised(tiny: dict, tmp_path: Path) -> None:
    """The two halves of a batch go through a network as the whole does, with the same gradients."""
    tiny["model_options"][MODEL]["dropout"] = 0.0
    config = reading.complete(tiny)
    images = 255 * torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for size in (1, 2):
        arguments = (size, config, images, tmp_path)
        torch.multiprocessing.spawn(share_of_batchnorm, arguments, nprocs=size)
    whole, *halves = (
        torch.load(tmp_path / name, map_location="cpu") for name in ("1-0.pt", "2-0.pt", "2-1.pt")
    )
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), whole[0], atol=1e-3, rtol=1e-3)
    for half in halves:
        for what in (1, 2):
            for value, expected in zip(half[what], whole[what]):
                torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
def test_two_gpus_train_the_model_of_one(tiny: dict, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU on this machine, and this test needs two")
    tiny["execution"]["device"] = "cuda"
    tiny["training"] |= {"iterations": 6, "batch_size": 4, "rotation": 90}
    one, two = (trained(tiny, tmp_path / str(processes), processes) for processes in (1, 2))
    assert losses(one) == pytest.approx(losses(two), rel=1e-2)


def started(settings: dict, results: Path) -> tuple[subprocess.Popen, Training]:
    """A training by two processes, as a job of its own."""
    config, training = prepared(settings, results, 2)
    file = results / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "common", "train", "--configfile", str(file), "--threads", "1"]
    command += ["--dataset", training.dataset, "--model", MODEL, "--method", training.method, "--seed", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes), training


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(training: Training) -> int:
    return len(training.log.read_text().splitlines()) if training.log.exists() else 0


def members(process: subprocess.Popen) -> list[int]:
    """The processes that train, in the order of their start."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "common\0train" in Path(f"/proc/{pid}/cmdline").read_text()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_after_sigterm_one_process_goes_on_where_two_ended(frozen: dict, tmp_path: Path) -> None:
    frozen["training"] |= {"iterations": 20, "batch_size": 2, "accumulate": 1}
    frozen["execution"]["checkpoint_every"] = 100
    process, training = started(frozen, tmp_path / "stopped")
    wait_for(lambda: lines(training) >= 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 143, output
    assert output.count("asked to end at iteration") == 1 and "Traceback" not in output, output
    assert not training.error.exists()
    saved = torch.load(training.state / "checkpoint.pt", weights_only=True)["iteration"]
    assert saved == lines(training) < 20
    assert_same(trained(frozen, tmp_path / "stopped", 1), trained(frozen, tmp_path / "undisturbed", 1))


@pytest.mark.long
def test_killed_processes_are_told_of_and_two_go_on(frozen: dict, tmp_path: Path) -> None:
    frozen["training"] |= {"iterations": 60, "batch_size": 2, "accumulate": 1}
    process, training = started(frozen, tmp_path / "killed")
    wait_for(lambda: lines(training) >= 5)
    first, second = members(process)
    os.kill(second, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2 and "Traceback" not in output, output
    failure = Failure.read(training.error)
    assert failure.kind == "crash" and "process 2 of the training was killed by SIGKILL" in failure.error
    assert output.count("structseg: ") == 1, output
    assert not alive(first)

    before = lines(training)
    process, _ = started(frozen, tmp_path / "killed")
    wait_for(lambda: lines(training) >= before + 5)
    both = members(process)
    process.kill()
    wait_for(lambda: not any(map(alive, both)))
    process.communicate()

    undisturbed = trained(frozen, tmp_path / "undisturbed", 1)
    assert_same(trained(frozen, tmp_path / "killed", 2), undisturbed, 10 * LOSS)


def test_what_one_of_them_cannot_read_is_one_sentence(
    frozen: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    root = tmp_path / "CamVid"
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        name = f"{split}_{{}}.png"
        for index in range(4):
            image = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / split / name.format(index))
            Image.fromarray(image[..., 0] % 12).save(root / f"{split}annot" / name.format(index))
        listed = (f"{split}/{name.format(i)} {split}annot/{name.format(i)}" for i in range(4))
        (root / f"{split}.txt").write_text("\n".join(listed))
    settings = frozen | {"datasets": ["camvid"], "dataset_options": {"camvid": {"root": str(root)}}}
    config, training = prepared(settings, tmp_path / "results", 2)
    (root / "train" / "train_2.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="train_2.png"):
        train.train(training, plan.execution(config), config)
    failure = Failure.read(training.error)
    assert failure.kind == "input" and "train_2.png" in failure.error
    assert "Traceback" not in capfd.readouterr().err


def test_a_batch_that_cannot_be_shared_is_refused(tiny: dict) -> None:
    tiny["execution"]["gpus_per_run"] = 3
    tiny["training"]["batch_size"] = 4
    with pytest.raises(
        UserError, match=r"training.batch_size \(for digits\): 4 images cannot be shared equally by 3"
    ):
        reading.complete(tiny)


def test_a_batch_that_the_gpus_of_a_job_cannot_share_is_refused(tiny: dict, tmp_path: Path) -> None:
    """Snakemake may give a job other GPUs than the configuration says."""
    config, training = prepared(tiny, tmp_path, 1)
    execution = replace(plan.execution(config), gpus_per_run=3)
    with pytest.raises(UserError, match="2 images cannot be shared equally by 3 GPUs"):
        train.train(training, execution, config)
    assert not (training.state / "config.json").exists()
