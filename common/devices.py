"""Which device a stage runs on, and honest timing on it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import torch

from common.errors import NoDevice

POLL_SECONDS = 0.5
"""How long to wait before looking for a free GPU again."""


def choose(name: str = "auto") -> torch.device:
    """The device that the configuration names.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        NoDevice: `cuda` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NoDevice(f"execution.device: {name!r} is not on this machine; set it to auto or cpu")
    return device


@contextlib.contextmanager
def leased(name: str = "auto") -> Iterator[torch.device]:
    """A device for this process alone, if it is a GPU: waits until one is free.

    Snakemake counts GPUs but does not hand them out. So a job locks one of those that
    CUDA_VISIBLE_DEVICES (or the machine) offers; the kernel frees the lock when the process ends,
    however it ends. Locks belong to a user and, inside of a SLURM job, to the job. With `cuda:<index>`
    the device is given and nothing is locked. On a CPU the process keeps the memory that it frees.

    Args:
        name: As in `choose`.

    Raises:
        NoDevice: As in `choose`.
    """
    device = choose(name)
    if device.type == "cpu":
        _keep_memory()
    if device.type != "cuda" or device.index is not None:
        yield device
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    owner = f"{os.getuid()}-{os.environ.get('SLURM_JOB_ID', 'local')}"
    folder = Path(tempfile.gettempdir()) / f"structseg-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / f"gpu-{gpu}.lock").open("w")) for gpu in names]
        while (index := _lock_one(files)) is None:
            time.sleep(POLL_SECONDS)
        torch.cuda.set_device(index)
        yield torch.device("cuda", index)


def _keep_memory() -> None:
    """Has the C library keep large blocks for their next use.

    GNU's gives them back to the system whenever they are freed. To get them again at every training step,
    zeroed page by page, can take a third of the step.
    """
    trim_threshold, mmap_max = -1, -4  # as in malloc.h
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _lock_one(files: Sequence[IO[str]]) -> int | None:
    """Locks the first of the files that nobody has locked; None if there is none."""
    for index, file in enumerate(files):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return index
    return None


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> str:
    """The name of the device as tables show it; a CPU with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def set_threads(threads: int | None) -> None:
    """Uses `threads` CPU threads for tensor operations, or those this process may run on."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call of `function`, the device's queue emptied before and after."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start
