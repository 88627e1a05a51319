"""The locks of jobs: those that train or score share the machine, and what is timed has it alone.

Jobs that train or score hold the lock of their kind of device, a CPU or a GPU, together with others. A
measurement waits until those that run have ended; who comes while one waits or runs stands behind it. So
nothing starves: measurements wait for the jobs that run already, and later jobs for them. Who holds a lock
waits for nothing, so there is no deadlock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common import phases
from common.machine import lock_files
from common.machine.lock_files import scheduler_job

KINDS = ("cpu", "cuda")
"""The kinds of devices whose jobs have a lock each."""


@contextlib.contextmanager
def shared(kind: str) -> Iterator[None]:
    """Keeps measurements from starting for the block; waits for those that run or wait already.

    Args:
        kind: The kind of device that the job uses, one of `KINDS`.
    """
    with _opened("queue") as queue, _opened(kind) as lock:
        _wait(queue, fcntl.LOCK_EX, "until measurements have ended, which run alone on this machine")
        fcntl.flock(lock, fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def alone(kind: str, patience: float) -> Iterator[bool]:
    """Keeps all other jobs from starting for the block, and yields whether none is running.

    It waits for other measurements, which are short, and for jobs on the CPU if it is to time the CPU: they
    would slow each other down. It waits only a while where that could take days and matters little: for jobs
    on GPUs, which have a GPU each, and inside of a scheduler's job, which has cores of its own and a limit of
    time.

    Args:
        kind: The kind of device that is timed, one of `KINDS`.
        patience: How many seconds are a while.
    """
    end = time.monotonic() + patience
    with contextlib.ExitStack() as locks:
        queue = locks.enter_context(_opened("queue"))
        _wait(queue, fcntl.LOCK_EX, "until another measurement on this machine has ended")
        free = True
        for other in KINDS:
            lock = locks.enter_context(_opened(other))
            strict = kind == other == "cpu" and scheduler_job() is None
            what = "to measure, until other jobs on this machine have ended"
            free &= _wait(lock, fcntl.LOCK_EX, what, None if strict else end)
        yield free


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    """Opens the file of one of these locks."""
    with lock_files.opened(None, f"machine-{name}.lock") as (file,):
        yield file


def _wait(file: IO[str], operation: int, what: str, end: float | None = None) -> bool:
    """Locks a file, if need be after a while, and says what it waits for; returns whether it has the lock.

    Args:
        file: The file.
        operation: What `flock` is to do.
        what: What is waited for, for the message.
        end: When to give up, in the seconds of `time.monotonic`; None is never.
    """
    waiting = False
    with phases.during(phases.WAITING):
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, operation | fcntl.LOCK_NB)
                return True
            if end is not None and time.monotonic() >= end:
                return False
            if not waiting:
                print(f"structseg: waits {what}{_holders(file)}", flush=True)
                waiting = True
            time.sleep(lock_files.POLL_SECONDS)


def _holders(file: IO[str]) -> str:
    """Which processes have locked a file, in parentheses; empty where the system does not say."""
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    inode = f":{os.fstat(file.fileno()).st_ino}"
    numbers = sorted({int(line[4]) for line in lines if line[1] == "FLOCK" and line[5].endswith(inode)})
    processes = [str(number) for number in numbers if number > 0]
    return f" (process {', '.join(processes)})" if processes else ""
