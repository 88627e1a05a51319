"""Waiting for a quiet machine, and noting what else it did while something was timed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from common import phases
from common.machine import job_locks
from common.runs.records import Load

STATISTICS = Path("/proc/stat")
"""Where Linux says what the machine's cores have done."""

SAMPLE_SECONDS = 0.5
"""How long the machine is watched to tell whether it is quiet."""


@contextlib.contextmanager
def measuring(device: torch.device, patience: float) -> Iterator[Watch]:
    """Keeps other jobs of ours off the machine for the block; waits a while for a quiet machine before.

    Args:
        device: What is timed.
        patience: How many seconds are a while (`execution.quiet_wait`), as of `job_locks.alone` for our jobs.
    """
    start = time.monotonic()
    with job_locks.alone(device.type, patience) as alone:
        with phases.during(phases.WAITING):
            _wait_for_quiet(device, patience)
        yield Watch(device, alone, time.monotonic() - start)


class Watch:
    """Looks at a machine from when it is made until it is asked."""

    def __init__(self, device: torch.device, alone: bool, waited: float) -> None:
        """Begins to look.

        Args:
            device: What is timed.
            alone: Whether no other job of ours runs.
            waited: For how many seconds they were waited for.
        """
        self.device, self.alone, self.waited = device, alone, waited
        self.load_average = _load_average()
        self.gpu_processes = _gpu_processes(device)
        self.before = _Times.now()

    def load(self) -> Load:
        """What else the machine did since."""
        before, after = self.before, _Times.now()
        seconds = max(after.wall - before.wall, 1e-6)
        own, others = (after.own - before.own) / seconds, None
        if before.all is not None and after.all is not None:
            others = max(0.0, (after.all - before.all) / seconds - own)
        on_gpu = [n for n in (self.gpu_processes, _gpu_processes(self.device)) if n is not None]
        return Load(
            on_gpu=self.device.type == "cuda",
            alone=self.alone,
            waited_seconds=round(self.waited, 3),
            load_average=self.load_average,
            cores=os.cpu_count() or 1,
            own_cores=round(own, 3),
            other_cores=None if others is None else round(others, 3),
            gpu_processes=max(on_gpu, default=None),
        )


@dataclass(frozen=True)
class _Times:
    """Seconds since some moment: on the clock, of CPU of this process, and of CPU of all processes."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> _Times:
        return cls(time.monotonic(), sum(os.times()[:4]), _all_seconds())


def _all_seconds() -> float | None:
    """Seconds of CPU time of all processes, with what a host gave to other machines; None if not known."""
    try:
        line = STATISTICS.read_text().split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _, _, *interrupts = map(int, line.split()[1:9])  # without idle and iowait
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _load_average() -> float | None:
    """The load average over the last minute; None if it is not known."""
    with contextlib.suppress(OSError):
        return os.getloadavg()[0]
    return None


def _gpu_processes(device: torch.device) -> int | None:
    """How many other processes compute on a GPU; None on a CPU, or if it is not known."""
    if device.type != "cuda":
        return None
    torch.zeros(1, device=device)  # with this process there: in a container its number is another one
    identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={identity}", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return max(0, len({line for line in result.stdout.split("\n") if line.strip()}) - 1)


def _wait_for_quiet(device: torch.device, patience: float) -> None:
    """Waits until the machine is quiet; after so many seconds it says that it is not, and goes on."""
    start, waiting = time.monotonic(), False
    while patience > 0:
        watch = Watch(device, alone=True, waited=0)  # jobs of ours were waited for already
        time.sleep(SAMPLE_SECONDS)
        busy = watch.load().busy
        if not busy:
            return
        if time.monotonic() - start >= patience:
            print(f"structseg: measures on a busy machine: {busy}", flush=True)
            return
        if not waiting:
            print(f"structseg: waits {patience:g} s for a quiet machine: {busy}", flush=True)
            waiting = True
