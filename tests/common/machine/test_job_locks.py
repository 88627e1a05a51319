"""Jobs share a machine, and measurements have it alone; every job here is a process of its own."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from common.config import reading
from common.files import write_json
from common.machine import job_locks, lock_files
from common.runs import plan
from common.stages import prepare, train
from tests.conftest import ROOT

LONG = 600.0
"""More patience than any of these tests has."""


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_files, "LOCKS", tmp_path)
    monkeypatch.setattr(lock_files, "POLL_SECONDS", 0.002)
    for variable in lock_files.SCHEDULERS:
        monkeypatch.delenv(variable, raising=False)


class Job:
    """A forked process that holds a lock until it is told to end."""

    def __init__(self, lock: Callable[[], AbstractContextManager[bool | None]]) -> None:
        reading, self.writing = os.pipe()
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.writing)
            with lock() as free:
                os.write(writing, b"-" if free is False else b"+")
                os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        os.close(writing)

    def state(self, seconds: float = 20) -> str:
        """`+` if it has the lock, `-` if it works without, empty if it waits still after so many seconds."""
        ready, _, _ = select.select([self.reading], [], [], seconds)
        return os.read(self.reading, 1).decode() if ready else ""

    def end(self, number: int = signal.SIGKILL) -> None:
        """A job that is killed frees its locks as one that ends."""
        os.kill(self.pid, number)
        os.close(self.writing)
        os.close(self.reading)
        os.waitpid(self.pid, 0)


def training(kind: str = "cpu") -> Job:
    return Job(lambda: job_locks.shared(kind))


def measurement(kind: str = "cpu", patience: float = LONG) -> Job:
    return Job(lambda: job_locks.alone(kind, patience))


def test_jobs_share_the_machine_and_a_measurement_has_it_alone() -> None:
    one, two = training(), training()
    assert one.state() == two.state() == "+"
    first = measurement(patience=0.05)
    assert first.state(0.2) == "", "two jobs run, and for those on a CPU it waits as long as they do"
    late, second = training(), measurement()
    one.end()
    assert first.state(0.2) == "", "one still runs"
    assert late.state(0.2) == "", "it does not overtake the measurement"
    two.end()
    assert first.state() == "+"
    assert late.state(0.2) == second.state(0.2) == ""
    first.end()
    states = [late.state(0.5), second.state(0.5)]
    assert states in (["+", ""], ["", "+"]), "never both"
    (late if states[0] else second).end()
    assert (second if states[0] else late).state() == "+"
    (second if states[0] else late).end()


def test_a_measurement_waits_only_a_while_for_jobs_on_gpus() -> None:
    other = training("cuda")
    assert other.state() == "+"
    for kind in ("cuda", "cpu"):
        timed = measurement(kind, patience=0.1)
        assert timed.state() == "-", "and says that it is not alone"
        late = training("cuda")
        assert late.state(0.2) == "", "but nothing starts beside it"
        timed.end()
        assert late.state() == "+"
        late.end()
    other.end()
    timed = measurement("cuda", patience=0.1)
    assert timed.state() == "+"
    timed.end()


def test_inside_of_a_scheduler_s_job_it_waits_only_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    other = training()
    assert other.state() == "+"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    timed = measurement(patience=0.1)
    assert timed.state() == "-", "its time is limited"
    timed.end()
    other.end()


def test_a_data_loader_does_not_keep_the_lock_of_a_killed_job() -> None:
    """Forked processes inherit open files, and locks with them."""
    loaders, writing = os.pipe()

    def with_a_loader() -> AbstractContextManager[None]:
        lock = job_locks.shared("cpu")
        lock.__enter__()
        loader = os.fork()
        if loader == 0:
            time.sleep(LONG)
        os.write(writing, str(loader).encode())
        return lock

    pid = os.fork()
    if pid == 0:
        with_a_loader()
        time.sleep(LONG)
    loader = int(os.read(loaders, 100))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        timed = measurement()
        assert timed.state() == "+"
        timed.end()
    finally:
        os.kill(loader, signal.SIGKILL)


def work(witness: Path, log: Path, timing: bool) -> None:
    """Takes the lock again and again; a lock of another kind tells whether somebody is beside it."""
    random.seed(os.getpid())
    own = witness.open("r+")  # opened first, so that a killed process frees it first
    line = "timed" if timing else "trained"
    while True:
        with job_locks.alone("cpu", LONG) if timing else job_locks.shared("cpu"):
            try:
                fcntl.lockf(own, (fcntl.LOCK_EX if timing else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                line = f"{line} beside another"
            with log.open("a") as file:
                file.write(f"{line}\n")
            time.sleep(random.uniform(0, 0.005))
            fcntl.lockf(own, fcntl.LOCK_UN)


def test_stress_nothing_runs_beside_a_measurement_and_all_have_turns(tmp_path: Path) -> None:
    """6 jobs and 3 measurements, killed at random moments, until there were 60 of each."""
    log, witness = tmp_path / "log", tmp_path / "witness"
    log.touch()
    witness.touch()
    random.seed(0)
    roles: dict[int, bool] = {}

    def start(timing: bool) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                work(witness, log, timing)
            finally:
                os._exit(1)
        roles[pid] = timing

    def killed(pid: int) -> bool:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it failed before"
        return roles.pop(pid)

    try:
        for index in range(9):
            start(timing=index < 3)
        deadline = time.monotonic() + 60
        while min(log.read_text().count(word) for word in ("timed", "trained")) < 60:
            assert time.monotonic() < deadline, "somebody starves"
            time.sleep(random.uniform(0, 0.05))
            start(killed(random.choice(list(roles))))
    finally:
        for pid in list(roles):
            killed(pid)
    assert "beside" not in log.read_text()


def test_a_training_waits_for_a_measurement_and_says_so(tiny: dict, tmp_path: Path) -> None:
    """As the stages are run, by their verbs; another clone's Snakemake would start the same process."""
    config = reading.complete(tiny)
    run = plan.runs(config)[0]
    prepare.prepare(run.data)
    write_json(tmp_path / "config.json", config)
    arguments = [sys.executable, "-m", "common", "train", "--configfile", str(tmp_path / "config.json")]
    arguments += ["--dataset", run.dataset, "--model", run.model, "--method", "ce", "--seed", "0"]
    environment = os.environ | {"STRUCTSEG_LOCKS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    timed = measurement()
    assert timed.state() == "+"
    log = tmp_path / "log"
    with log.open("w") as file:
        stage = subprocess.Popen(arguments, cwd=ROOT, stdout=file, stderr=file, env=environment)
    try:
        deadline = time.monotonic() + 60
        while "waits until measurements have ended" not in log.read_text():
            assert stage.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert f"(process {timed.pid})" in log.read_text() or not Path("/proc/locks").exists()
        assert not run.training.log.exists()
        timed.end()
        assert stage.wait(60) == 0, log.read_text()
    finally:
        stage.kill()
    assert run.training.file.exists()


def test_a_measurement_waits_for_a_training(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    config = reading.complete(tiny)
    run, execution = plan.runs(config)[0], plan.execution(config)
    prepare.prepare(run.data)
    timed: list[Job] = []

    def state(*_: object) -> str:
        """How a measurement does that begins in the middle of the training."""
        timed.append(measurement())
        return timed[0].state(0.3)

    monkeypatch.setattr("common.training.train.train_model", lambda *_: states.append(state()))
    states: list[str] = []
    train.train(run.training, execution)
    assert states == [""]
    assert timed[0].state() == "+", "the training has ended"
    timed[0].end()
