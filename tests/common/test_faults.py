"""What happens to a training when the machine fails it: each fault is caused, not pretended."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.config import reading
from common.config.entries import Config
from common.errors import HOPELESS, DiskFull, OutOfMemory, Unreachable, UserError
from common.failures import Failure
from common.files import locked, replacing, write_json
from common.images.reading import read_colours
from common.runs import plan
from common.runs.jobs import Training
from common.runs.records import TrainedModel, read_log
from common.stages import prepare, status, train
from common.training import loop
from common.training.checkpoints import Checkpoints
from tests.common.disks import file_system
from tests.conftest import ROOT

MODEL = "deeplabv3plus-test_resnet"


def prepared(config: Config, dataset: str = "digits") -> Training:
    training = plan.training(config, dataset, MODEL, "ce", 0)
    prepare.prepare(training.data)
    return training


def failure(training: Training) -> Failure:
    return Failure.read(training.error)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 megabytes, a few checkpoints of the test's model."""
    with file_system(tmp_path / "disk", "24m") as folder:
        yield folder


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    path = small_disk / "state.pt"
    with replacing(path, "wb") as file:
        torch.save(torch.zeros(1000), file)
    message = r"state\.pt cannot be written, the disk is full: make room"
    with pytest.raises(DiskFull, match=message), replacing(path, "wb") as file:
        torch.save(torch.zeros(8_000_000), file)
    assert torch.load(path).numel() == 1000
    assert [p.name for p in small_disk.iterdir()] == ["state.pt"], "nothing half-written is left"


def test_training_goes_on_after_a_full_disk(
    tiny: Config, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny["training"]["iterations"] = 6
    config = reading.complete(tiny | {"results": str(small_disk / "results")})
    training = prepared(config)
    with monkeypatch.context() as patch:
        original, calls = loop.training_step, []

        def filling(*arguments: object) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 3:  # there is one checkpoint; now somebody else takes the rest of the disk
                deadline = time.monotonic() + 60
                while not (training.state / "checkpoint.pt").exists():  # it is written beside the training
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                space = os.statvfs(small_disk)
                (small_disk / "other").write_bytes(bytes(space.f_bavail * space.f_frsize - 100_000))
            return original(*arguments)

        patch.setattr(loop, "training_step", filling)
        with pytest.raises(DiskFull, match="the disk is full: make room and give the same command again"):
            train.train(training, plan.execution(config))
    assert not [*training.folder.rglob("*.tmp")]
    (small_disk / "other").unlink()
    assert Checkpoints(training.state, training.digest).latest().position.iteration == 2
    train.train(training, plan.execution(config))
    assert training.file.exists() and not training.error.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(tiny: Config, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "camvid"
    for split in ("train", "val", "test"):
        lines = []
        for index in range(6):
            names = f"{split}/{split}{index}.png", f"{split}annot/{split}{index}.png"
            for name, mode in zip(names, ("RGB", "L")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (48, 48)).save(root / name)
            lines.append(" ".join(names) + "\n")
        (root / f"{split}.txt").write_text("".join(lines))
    options = {"root": str(root), "allow": ["absent_classes", "single_class"]}
    tiny |= {"datasets": ["camvid"], "dataset_options": {"camvid": options}}
    tiny["execution"]["workers"] = workers
    config = reading.complete(tiny)
    training = prepared(config, "camvid")
    broken = root / "train" / "train3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=r"^\S*train3\.png cannot be read as a picture: [^\n]*$"):
        train.train(training, plan.execution(config))
    assert str(broken) in failure(training).error and failure(training).kind == "input"


def test_a_disk_out_of_reach_is_no_mistake_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine, or a later try, may see it: a retry must not be refused."""

    def refuses(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(Unreachable, match="a.png is missing") as missing:
        read_colours(tmp_path / "a.png")
    monkeypatch.setattr(Path, "read_bytes", refuses)
    with pytest.raises(Unreachable, match="a.png cannot be read: Stale file handle"):
        read_colours(tmp_path / "a.png")
    assert missing.value.kind not in HOPELESS


def test_a_finished_model_that_cannot_be_read_now_is_kept(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reading.complete(tiny)
    training = prepared(config)
    train.train(training, plan.execution(config))
    training.file.unlink()
    finished = training.state / "finished.pt"

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(Unreachable, match="Input/output"):
        patch.setattr(torch, "load", refuses)
        train.train(training, plan.execution(config))
    assert finished.exists() and failure(training).kind not in HOPELESS
    train.train(training, plan.execution(config))
    assert training.file.exists()


def test_a_file_system_without_locks_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    with locked(tmp_path / "lock"):
        pass
    assert f"the file system of {tmp_path} has no locks" in capsys.readouterr().err


def test_a_gpu_that_is_too_small_names_run_and_batch(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("methods.ce.CrossEntropy.loss", loss)
    tiny["training"]["crop"] = [32, 40]
    config = reading.complete(tiny)
    training = prepared(config)
    message = (
        f"the GPU's memory is too small for training {MODEL} with ce on digits, seed 0, in batches of 2 "
        "images of 32×40 with 11 classes: use a smaller training.batch_size"
    )
    with pytest.raises(OutOfMemory, match=message):
        train.train(training, plan.execution(config))
    assert failure(training).error.startswith(message)
    assert failure(training).kind == "out of memory", "a machine with a larger GPU may try it again"


@pytest.mark.gpu
def test_a_gpu_that_is_too_small(tiny: Config) -> None:
    tiny["training"] |= {"batch_size": 512, "crop": [1024, 1024]}
    tiny["execution"]["device"] = "cuda"
    config = reading.complete(tiny)
    training = prepared(config)
    torch.cuda.set_per_process_memory_fraction(0.005)
    try:
        with pytest.raises(OutOfMemory, match="in batches of 512 images of 1024×1024"):
            train.train(training, plan.execution(config))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_loader_that_dies_is_one_sentence_and_training_goes_on_when_started_again(
    tiny: Config, tmp_path: Path
) -> None:
    tiny["training"]["iterations"] = 2000
    tiny["execution"] |= {"checkpoint_every": 5, "workers": 1}
    config = reading.complete(tiny)
    file = tmp_path / "config.json"
    write_json(file, config)
    training = prepared(config)
    command = [sys.executable, "-m", "common", "train", "--configfile", str(file), "--threads", "1"]
    command += ["--dataset", "digits", "--model", MODEL, "--method", "ce", "--seed", "0"]

    def started() -> subprocess.Popen[str]:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not (training.log.exists() and len(training.log.read_text().splitlines()) > least):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        return process

    least = 10
    process = started()
    (loader,) = [pid for pid in children(process.pid) if "python" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(loader, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in error
    assert "a process that loads images has died" in error
    assert failure(training).kind == "data loader"
    least = len(training.log.read_text().splitlines()) + 5
    process = started()
    process.terminate()
    process.communicate(timeout=60)
    iterations = [json.loads(line)["iteration"] for line in training.log.read_text().splitlines()]
    assert iterations == [*range(1, len(iterations) + 1)], "it went on from a checkpoint"


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_no_time(
    tiny: Config, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    tiny["training"]["iterations"] = 6
    config = reading.complete(tiny)
    training = prepared(config)
    original, clock, calls = loop.training_step, time.time, []

    def jumping(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            monkeypatch.setattr(time, "time", lambda: clock() + jump)
        return original(*arguments)

    monkeypatch.setattr(loop, "training_step", jumping)
    started = time.monotonic()
    train.train(training, plan.execution(config))
    took = time.monotonic() - started
    seconds = [line.seconds for line in read_log(training.log)]
    assert all(before < after for before, after in pairwise([0.0, *seconds])) and seconds[-1] < took
    assert 0 < TrainedModel.read(training.file).wall_seconds < took
    assert [run.state for run in status.status(plan.benchmark(config))] == ["trained"]
