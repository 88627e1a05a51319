"""Where the time of a job goes: it waits, starts, loads, computes and writes.

Whoever does something else than computing says so (`during`), wherever that is; only the main thread counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

WAITING, STARTING, LOADING = "waiting", "starting", "loading"
COMPUTING, WRITING = "computing", "writing"
PHASES = (WAITING, STARTING, LOADING, COMPUTING, WRITING)
"""What a job does: it waits for a device or a quiet machine, imports and reads settings, reads data and
models, computes, and writes results."""


class Clock:
    """Counts the seconds of one job.

    Attributes:
        began: When its process began, in seconds since 1970.
        seconds: Of every one of `PHASES`.
        devices: The GPUs that it has, or the CPU, and on which machine.
        share: How much of these devices it has: cores of a CPU, or a part of a GPU.
    """

    def __init__(self) -> None:
        self.began = process_began()
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.seconds[STARTING] = max(0.0, time.time() - self.began)
        self.phase, self.since = STARTING, time.monotonic()
        self.thread = threading.get_ident()
        self.devices: list[str] = []
        self.share = 1.0

    def change(self, phase: str) -> str:
        """Begins another phase; returns the one before."""
        now, before = time.monotonic(), self.phase
        self.seconds[before] += now - self.since
        self.phase, self.since = phase, now
        return before


_clock: Clock | None = None


@contextlib.contextmanager
def counted() -> Iterator[Clock]:
    """Counts the time of this process, from its beginning to the end of the block."""
    global _clock
    _clock = clock = Clock()
    clock.change(COMPUTING)
    try:
        yield clock
    finally:
        _clock = None
        clock.change(COMPUTING)


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
    """Counts the time of the block as that of one of `PHASES`.

    Args:
        phase: Which.
    """
    clock = _clock
    if clock is None or threading.get_ident() != clock.thread:
        yield
        return
    before = clock.change(phase)
    try:
        yield
    finally:
        clock.change(before)


def note_devices(names: list[str], share: float) -> None:
    """Notes what the job computes on.

    Args:
        names: Of the devices, the same for all jobs of the machine.
        share: How much of them it has, as of `Clock`.
    """
    if _clock is not None:
        _clock.devices, _clock.share = [f"{os.uname().nodename}: {name}" for name in names], share


def process_began() -> float:
    """When this process began, in seconds since 1970; now, where the system does not say."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
