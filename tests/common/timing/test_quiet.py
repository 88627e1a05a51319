"""What else the machine does while something is timed, and waiting for it to end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.machine import job_locks, lock_files
from common.timing import quiet
from tests.synthetic import QUIET

CPU = torch.device("cpu")


@pytest.fixture
def busy_process() -> Iterator[None]:
    """A process that computes as long as the test takes."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.kill()
    process.communicate()


class Machine:
    """A pretended machine of two cores, of which others use as many as `others` says."""

    def __init__(self, file: Path) -> None:
        self.file, self.others, self.ticks, self.open = file, 0.0, 0.0, True
        self._write()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        before = time.monotonic(), sum(os.times()[:4])
        for _ in itertools.takewhile(lambda _: self.open, itertools.count()):
            time.sleep(0.005)
            now = time.monotonic(), sum(os.times()[:4])  # what this process uses is not the others'
            seconds = self.others * (now[0] - before[0]) + now[1] - before[1]
            self.ticks += seconds * os.sysconf("SC_CLK_TCK")
            before = now
            self._write()

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"cpu  {int(self.ticks)} 0 0 999999 999999 0 0 0 0 0\ncpu0 1\n")
        new.replace(self.file)


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(quiet, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(quiet, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    made = Machine(tmp_path / "stat")
    yield made
    made.open = False
    made.thread.join()


def test_what_other_processes_use_is_noted(busy_process: None) -> None:
    with quiet.measuring(CPU, patience=0) as watch:
        time.sleep(0.6)
        load = watch.load()
    assert load.alone and not load.on_gpu and load.gpu_processes is None
    assert load.other_cores is not None and load.other_cores > 0.2
    assert load.busy.startswith("other processes used ") or load.cores > 4


def test_what_it_does_itself_is_not_another_s_work(pretended: Machine) -> None:
    with quiet.measuring(CPU, patience=0) as watch:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        load = watch.load()
    assert load.own_cores > 0 and load.other_cores < 0.1 and load.busy == ""


def test_it_waits_until_the_machine_is_quiet(pretended: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    pretended.others = 1.5
    threading.Timer(0.4, lambda: setattr(pretended, "others", 0.0)).start()
    start = time.monotonic()
    with quiet.measuring(CPU, patience=60) as watch:
        assert 0.4 < time.monotonic() - start < 30
        load = watch.load()
    assert load.waited_seconds > 0.4 and load.busy == ""
    text = capsys.readouterr().out
    assert "structseg: waits 60 s for a quiet machine: other processes used 1." in text
    assert "measures on a busy machine" not in text


def test_it_does_not_wait_for_ever(pretended: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    pretended.others = 1.5
    start = time.monotonic()
    with quiet.measuring(CPU, patience=0.3) as watch:
        assert time.monotonic() - start >= 0.3
        time.sleep(0.1)
        assert "of 2 cores" in watch.load().busy
    assert "structseg: measures on a busy machine: other processes used" in capsys.readouterr().out


def test_on_a_quiet_machine_it_waits_for_nothing(
    pretended: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet.measuring(CPU, patience=60) as watch:
        assert watch.load().waited_seconds < 10
    assert capsys.readouterr().out == ""


def test_it_keeps_other_jobs_off_the_machine(pretended: Machine) -> None:
    entered = threading.Event()

    def job() -> None:
        with job_locks.shared("cpu"):
            entered.set()

    thread = threading.Thread(target=job)
    with quiet.measuring(CPU, patience=0):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(20)
    thread.join()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"other_cores": 0.19}, ""),
        ({"other_cores": 0.21}, "other processes used 0.2 of 2 cores"),
        ({"other_cores": 5.0, "cores": 64}, ""),
        ({"other_cores": None}, ""),
        ({"alone": False}, "other jobs of this benchmark ran beside it"),
        ({"on_gpu": True, "other_cores": 0.7, "own_cores": 1.0}, ""),
        ({"on_gpu": True, "other_cores": 0.9, "own_cores": 1.0}, "other processes used 0.9 of 2 cores"),
        ({"on_gpu": True, "other_cores": 50.0, "own_cores": 1.0, "cores": 64, "alone": False}, ""),
        ({"on_gpu": True, "own_cores": 1.0, "gpu_processes": 0}, ""),
        ({"on_gpu": True, "own_cores": 1.0, "gpu_processes": 2}, "other processes on the GPU: 2"),
    ],
)
def test_when_a_machine_counts_as_busy(changes: dict, reason: str) -> None:
    assert dataclasses.replace(QUIET, **changes).busy == reason


@pytest.mark.parametrize(("listed", "others"), [("", 0), ("7\n", 0), ("7\n8\n9\n", 2), (None, None)])
def test_other_processes_on_a_gpu_are_counted(
    listed: str | None, others: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool lists this process as well, by a number that need not be its own; without it nobody knows."""
    if listed is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            f"#!/bin/sh\n[ $1 = --id=GPU-1-2 ] && printf '{listed.encode('unicode_escape').decode()}'"
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if listed is not None else str(tmp_path))
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(lock_files, "POLL_SECONDS", 0.01)
    with quiet.measuring(torch.device("cuda", 0), patience=0) as watch:
        load = watch.load()
    assert load.on_gpu and load.gpu_processes == others
