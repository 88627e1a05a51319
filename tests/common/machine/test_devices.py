"""GPUs are handed out one to a process; without a GPU the lease is tried on pretended ones."""

from __future__ import annotations

import fcntl
import os
import platform
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.files import locked
from common.machine import devices, lock_files
from tests.conftest import ROOT

VARIABLES = ("CUDA_VISIBLE_DEVICES", *lock_files.SCHEDULERS)


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with three GPUs and locks of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(lock_files, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(lock_files, "LOCKS", tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


class Job:
    """A forked process that leases GPUs and holds them until it is told to end."""

    def __init__(self, count: int, name: str = "auto", sharers: int = 1) -> None:
        reading, self.writing = os.pipe()
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.writing)
            with devices.lease(name, count, sharers) as leased:
                os.write(writing, bytes(device.index for device in leased))
                os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        os.close(writing)

    def indices(self, seconds: float | None = None) -> list[int]:
        """The GPUs that it has; none if it still waits after so many seconds."""
        ready, _, _ = select.select([self.reading], [], [], seconds)
        return list(os.read(self.reading, 100)) if ready else []

    def end(self, number: int = 0) -> None:
        if number:
            os.kill(self.pid, number)
        else:
            os.write(self.writing, b".")
        os.close(self.writing)
        os.close(self.reading)
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == -number


def test_jobs_have_gpus_of_their_own_and_a_killed_one_frees_its_own(pretended: pytest.MonkeyPatch) -> None:
    pretended.setenv("CUDA_VISIBLE_DEVICES", " 4, 7,GPU-8a56,9")  # one more than there are
    one, two = Job(1), Job(2)
    assert sorted(one.indices() + two.indices()) == [0, 1, 2]
    many, few = Job(2), Job(1)
    assert many.indices(0.2) == []
    one.end()
    assert many.indices(0.2) == [], "one is free, but it wants two"
    assert few.indices(0.2) == [], "and has come first"
    two.end(signal.SIGKILL)
    assert sorted(many.indices() + few.indices()) == [0, 1, 2]
    many.end()
    few.end()


def test_jobs_share_a_gpu_and_what_is_measured_has_one_alone(pretended: pytest.MonkeyPatch) -> None:
    pretended.setattr(torch.cuda, "device_count", lambda: 2)
    sharing = [Job(1, sharers=2) for _ in range(4)]
    held = [job.indices() for job in sharing]
    assert sorted(held) == [[0], [0], [1], [1]]
    late = Job(1, sharers=2)
    assert late.indices(0.2) == []
    sharing[0].end(signal.SIGKILL)
    assert late.indices() == held[0]
    alone = Job(1)
    behind = Job(1, sharers=2)
    of_one = [job for job, (index,) in zip(sharing[1:], held[1:]) if index != held[0][0]]
    of_one[0].end()
    assert alone.indices(0.2) == behind.indices(0.2) == [], (
        "another still has it, and who wants it alone is first"
    )
    of_one[1].end()
    assert [alone.indices()] == [[1 - index for index in held[0]]]
    assert behind.indices(0.2) == [], "nobody shares with it"
    alone.end()
    behind.indices()
    together = Job(2)
    for job in (*(job for job in sharing[1:] if job not in of_one), late, behind):
        assert together.indices(0.05) == []
        job.end()
    assert together.indices() == [0, 1]
    together.end()


def test_many_that_share_are_spread_over_the_gpus(pretended: pytest.MonkeyPatch) -> None:
    jobs = [Job(1, sharers=4) for _ in range(3)]
    assert sorted(job.indices() for job in jobs) == [[0], [1], [2]]
    for job in jobs:
        job.end()


def test_a_data_loader_does_not_keep_the_lease_of_a_killed_job(pretended: pytest.MonkeyPatch) -> None:
    """Forked processes inherit open files, and locks with them."""
    loaders, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with devices.lease("auto", 3), locked(Path(tempfile.gettempdir()) / "run" / "lock"):
            loader = os.fork()
            if loader:
                os.write(writing, str(loader).encode())
            time.sleep(600)
    loader = int(os.read(loaders, 100))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        Path(f"/proc/{loader}").stat()
        job = Job(3)
        assert job.indices(20) == [0, 1, 2]
        job.end()
        with locked(Path(tempfile.gettempdir()) / "run" / "lock"):
            pass
    finally:
        os.kill(loader, signal.SIGKILL)


def test_nothing_is_leased_where_a_scheduler_has_set_the_devices(pretended: pytest.MonkeyPatch) -> None:
    pretended.setenv("SLURM_JOB_ID", "1")
    jobs = [Job(3), Job(3)]
    assert [job.indices() for job in jobs] == [[0, 1, 2], [0, 1, 2]]
    assert not list(Path(tempfile.gettempdir()).iterdir())
    inside = [Job(1), Job(2)]  # Snakemake itself runs in a job that has more than one of its own jobs wants
    assert sorted(index for job in inside for index in job.indices()) == [0, 1, 2]
    pretended.setenv("SLURM_JOB_ID", "2")
    other = Job(1)
    assert other.indices() == [0]
    for job in (*jobs, *inside, other):
        job.end()


def test_more_gpus_than_there_are_is_one_sentence(pretended: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="4 GPUs are wanted and 3 offered"), devices.lease("auto", 4):
        pass
    with pytest.raises(UserError, match="cuda:1 is one GPU, not 2"), devices.lease("cuda:1", 2):
        pass
    with pytest.raises(UserError, match=r"cuda, but the job has resources.gpu: 0"), devices.lease("cuda", 0):
        pass


def test_a_stage_leases_what_its_job_asked_for(pretended: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    try:
        for asked, names in ((None, ["0"]), (2, ["0", "1"]), (0, [])):
            devices.set_gpus(asked)
            with devices.leased("auto") as device:
                assert device == (torch.device("cuda", 0) if names else cpu)
                rest = Job(3 - len(names))
                assert rest.indices() == [index for index in range(3) if str(index) not in names]
                rest.end()
    finally:
        devices.set_gpus(None)
    with devices.lease("cpu", 2) as leased:
        assert leased == [cpu, cpu]


def work(share: int, sharers: int, cards: list[Path], log: Path) -> None:
    """Leases again and again and uses the cards; an own lock on each tells whether somebody else does."""
    random.seed(os.getpid())
    own = [card.open("r+") for card in cards]  # opened first, so that a killed process frees them first
    while True:
        with devices.lease("auto", share, sharers) as leased:
            line = " ".join(str(device.index) for device in leased)
            try:
                for device in leased:
                    operation = fcntl.LOCK_SH if sharers > 1 else fcntl.LOCK_EX
                    fcntl.lockf(own[device.index], operation | fcntl.LOCK_NB)
            except BlockingIOError:
                line = f"twice {line}"
            if random.random() < 0.1 and not os.fork():
                time.sleep(1)  # as processes that load data do
                os._exit(0)
            with log.open("a") as file:
                file.write(f"{line}\n")
            time.sleep(random.uniform(0, 0.01))
            for device in leased:
                fcntl.lockf(own[device.index], fcntl.LOCK_UN)


def test_stress_no_gpu_is_given_twice_and_none_is_lost(pretended: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """12 jobs that want one, two or half a GPU of 3, killed at random moments, until 200 leases."""
    cards = [tmp_path / f"card-{index}" for index in range(3)]
    log = tmp_path / "log"
    for file in (*cards, log):
        file.touch()
    random.seed(0)
    jobs: dict[int, tuple[int, int]] = {}

    def start(share: int, sharers: int) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                work(share, sharers, cards, log)
            finally:
                os._exit(1)
        jobs[pid] = share, sharers

    killed = 0
    try:
        for job in range(12):
            start(*((1, 1), (2, 1), (1, 2))[job % 3])
        deadline = time.monotonic() + 120
        while killed < 20 or len(log.read_text().splitlines()) < 200:
            assert time.monotonic() < deadline, "nobody gets a GPU any more"
            time.sleep(random.uniform(0, 0.03))
            pid = random.choice(list(jobs))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it failed before"
            killed += 1
            start(*jobs.pop(pid))
    finally:
        for pid in jobs:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    lines = log.read_text().splitlines()
    assert not [line for line in lines if "twice" in line]
    assert {index for line in lines for index in line.split()} == {"0", "1", "2"}
    assert {len(line.split()) for line in lines} == {1, 2}
    last = Job(3)
    assert last.indices(10) == [0, 1, 2]
    last.end()


def test_devices_that_are_not_there() -> None:
    if not torch.cuda.is_available():
        assert devices.choose("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="'cuda' is not on this machine; set it to auto or cpu"):
            devices.choose("cuda")
    with pytest.raises(UserError, match="'cuda:99' is not on this machine"):
        devices.choose("cuda:99")


def test_devices_have_names() -> None:
    torch.set_num_threads(1)
    assert devices.describe(torch.device("cpu")).endswith(", 1 threads")
    assert devices.seconds(lambda: time.sleep(0.01), torch.device("cpu")) >= 0.01


FAULTS = """
import contextlib, resource, sys, torch
from common.machine import devices
torch.set_num_threads(1)
layers = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)), torch.nn.ReLU())
images = torch.rand(4, 16, 256, 256)
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        layers(images).square().mean().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with devices.leased("cpu") if sys.argv[1] == "leased" else contextlib.nullcontext():
    faults(5)
    print(faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's C library is told so")
def test_on_a_cpu_memory_is_kept_for_its_next_use() -> None:
    faults = {}
    for how in ("leased", "not leased"):
        command = [sys.executable, "-c", FAULTS, how]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        faults[how] = int(result.stdout)
    assert 2 * faults["leased"] < faults["not leased"], faults


def test_the_folder_of_locks_is_made_or_the_reason_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_files, "LOCKS", tmp_path / "not/yet/there")
    assert lock_files.lock_folder(None).is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(lock_files, "LOCKS", tmp_path / "file")
    with pytest.raises(UserError, match="file/structseg-.*cannot be written, .*file.* is in the way"):
        lock_files.lock_folder(None)


def test_convolutions_on_gpus_use_tf32_if_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed, name in ((False, "NVIDIA H200, without TF32"), (True, "NVIDIA H200")):
            devices.set_tf32(allowed)
            device = devices.choose("cuda:0")
            assert torch.backends.cudnn.allow_tf32 is allowed and devices.describe(device) == name
            assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        devices.set_tf32(True)
        torch.backends.cudnn.allow_tf32 = before
