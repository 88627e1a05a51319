"""GPUs are handed out one to a process; without a GPU the lease is tried on pretended ones."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common import devices
from common.errors import UserError
from tests.conftest import ROOT

HOLD = """
import sys, torch, time
from pathlib import Path
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda index: None
from common import devices
devices.POLL_SECONDS = 0.02
with devices.leased("auto") as device:
    print(device.index, flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path, job: str = "") -> subprocess.Popen:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
        "CUDA_VISIBLE_DEVICES": "4,7",
    }
    environment |= {"SLURM_JOB_ID": job} if job else {}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_two_processes_never_have_the_same_gpu_and_a_killed_one_frees_its_own(tmp_path: Path) -> None:
    first, second = hold(tmp_path), hold(tmp_path)
    held = {process: process.stdout.readline().strip() for process in (first, second)}
    assert sorted(held.values()) == ["0", "1"]
    third = hold(tmp_path)
    time.sleep(1)
    first.kill()
    assert third.stdout.readline().strip() == held[first]
    for process in (second, third):
        process.communicate("\n", timeout=60)
        assert process.returncode == 0


def test_locks_belong_to_the_slurm_job(tmp_path: Path) -> None:
    one, two, other = hold(tmp_path, "1"), hold(tmp_path, "1"), hold(tmp_path, "2")
    indices = [process.stdout.readline().strip() for process in (one, two, other)]
    assert sorted(indices[:2]) == ["0", "1"] and indices[2] == "0"
    for process in (one, two, other):
        process.communicate("\n", timeout=60)


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
from common import devices
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
