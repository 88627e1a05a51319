"""What a machine refuses is one sentence in every stage: a place to write, the right to do so, memory."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.config import reading
from common.config.entries import Config
from common.datasets.digits import Digits
from common.errors import HOPELESS
from common.failures import Failure
from common.files import write_json
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.runs.records import Metrics
from common.stages import controls, evaluate, prepare, train
from tests.common.commands import status_of
from tests.common.disks import file_system
from tests.conftest import TINY
from tests.synthetic import cost_of

MODEL = "deeplabv3plus-test_resnet"
RUN = ["--dataset", "digits", "--model", MODEL, "--method", "crf-1", "--seed", "0"]
STAGES = {
    "prepare": ["--dataset", "digits"],
    "train": RUN,
    "evaluate": RUN,
    "measure": RUN,
    "controls": ["--dataset", "digits", "--model", MODEL],
    "tune": ["--dataset", "digits", "--model", MODEL, "--method", "crf-1"],
    "tabulate": [],
    "report": [],
}
"""The stages with arguments that a finished benchmark has a job for."""

WRITING = [pytest.param(verb, marks=pytest.mark.long) if verb == "measure" else verb for verb in STAGES]
"""Those whose tests get as far as their writing; measuring takes its time."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose run is trained, scored and measured."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    tuning = {"methods": {"crf-1": {"iterations": [1, 2]}}}
    config = reading.complete(TINY | {"methods": ["crf-1"], "tuning": tuning, "results": str(folder)})
    run = run_of(config)
    prepare.prepare(run.data)
    train.train(run.training, plan.execution(config))
    evaluate.evaluate(run, plan.execution(config))
    cost_of(run, state_sha256=Metrics.read(run).trained.state_sha256).write(run.cost)
    controls.score(plan.controls(config, "digits", MODEL))
    return config


def run_of(config: Config) -> TrainedRun:
    run = plan.run(config, "digits", MODEL, "crf-1", 0)
    assert isinstance(run, TrainedRun)
    return run


def to_do(config: Config, verb: str) -> Config:
    """Removes what a stage writes, so that there is something to do."""
    run = run_of(config)
    if verb == "train":
        shutil.rmtree(run.training.folder)
    elif verb == "prepare":
        run.data.path.unlink()
    elif verb == "evaluate":
        shutil.rmtree(run.folder)
    elif verb == "controls":
        shutil.rmtree(plan.controls(config, "digits", MODEL)[0].folder.parent)
    elif verb == "measure":
        run.cost.unlink()
    return config


def command(config: Config, verb: str, file: Path, *arguments: str) -> int:
    """Runs a stage by a file of its configuration; returns its exit status."""
    write_json(file, config)
    return status_of(verb, "--configfile", str(file), *arguments)


def check_sentence(capfd: pytest.CaptureFixture, *words: str) -> None:
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err
    (line,) = [line for line in output.err.splitlines() if line.startswith("structseg: ")]
    assert all(word in line for word in words), line


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    with file_system(tmp_path / "disk", "64m") as folder:
        yield folder


@pytest.mark.parametrize("verb", WRITING)
def test_a_read_only_file_system_is_one_sentence(
    verb: str, finished: Config, disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished["results"], disk / "results")
    config = to_do(finished | {"results": str(disk / "results")}, verb)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert command(config, verb, tmp_path / "config.json", *STAGES[verb]) == 2
    check_sentence(capfd, str(disk), "Read-only file system", "run again")


@pytest.mark.parametrize("verb", WRITING)
def test_a_full_disk_is_one_sentence(
    verb: str, finished: Config, disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished["results"], disk / "results")
    config = to_do(finished | {"results": str(disk / "results")}, verb)
    space = os.statvfs(disk)
    (disk / "other").write_bytes(bytes(space.f_bavail * space.f_frsize))
    assert command(config, verb, tmp_path / "config.json", *STAGES[verb]) == 2
    check_sentence(capfd, str(disk), "the disk is full: make room and give the same command again")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("verb", WRITING)
def test_a_write_that_is_refused_is_one_sentence(
    verb: str,
    number: int,
    finished: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    shutil.copytree(finished["results"], tmp_path / "results")
    config = to_do(finished | {"results": str(tmp_path / "results")}, verb)
    write_json(tmp_path / "config.json", config)
    monkeypatch.setattr(f"{__name__}.write_json", lambda *_: None)

    def refuses(*_: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(options.get("dir")))

    monkeypatch.setattr("tempfile.mkstemp", refuses)
    assert command(config, verb, tmp_path / "config.json", *STAGES[verb]) == 2
    check_sentence(capfd, "cannot be written", os.strerror(number), "run again")


ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 9000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(ALLOCATOR), OSError(errno.ENOMEM, "fork")])
@pytest.mark.parametrize("verb", STAGES)
def test_too_little_memory_is_one_sentence(
    verb: str,
    error: Exception,
    finished: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    shutil.copytree(finished["results"], tmp_path / "results")
    config = to_do(finished | {"results": str(tmp_path / "results")}, verb)

    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Digits, "read", exhausted)
    monkeypatch.setattr(Digits, "kept", exhausted)
    monkeypatch.setattr("common.tables.writing.make_tables", exhausted)
    assert command(config, verb, tmp_path / "config.json", *STAGES[verb]) == 2
    check_sentence(capfd, "the machine's memory is too small for", "resources.mem_mb higher")
    errors = [*(tmp_path / "results").rglob("*error.json")]
    assert (verb in ("tabulate", "report")) == (not errors)
    for path in errors:
        assert Failure.read(path).kind == "out of memory" and Failure.read(path).kind not in HOPELESS


@pytest.mark.parametrize("verb", ["predict", "export"])
def test_commands_without_a_configuration_say_so_as_well(
    verb: str, finished: Config, disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = str(run_of(finished).training.folder)
    arguments = {
        "predict": [str(tmp_path / "a.png"), "--run", run, "--output", str(disk / "out"), "--threads", "1"],
        "export": [str(disk / "model.pt"), "--run", run],
    }[verb]
    assert status_of(verb, *arguments) == 2
    check_sentence(capfd, "Read-only file system")


@pytest.mark.parametrize(
    ("make", "verb"),
    [
        (lambda run: run.panel, "evaluate"),
        (lambda run: run.per_image, "evaluate"),
        (lambda run: run.data.path, "prepare"),
    ],
)
def test_a_folder_in_the_way_is_one_sentence(
    make: Callable[[TrainedRun], Path],
    verb: str,
    finished: Config,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    shutil.copytree(finished["results"], tmp_path / "results")
    config = finished | {"results": str(tmp_path / "results")}
    path = make(run_of(config))
    path.unlink()
    (path / "x").mkdir(parents=True)
    assert command(config, verb, tmp_path / "config.json", *STAGES[verb]) == 2
    check_sentence(capfd, str(path), "in the way: move that away and run again")
