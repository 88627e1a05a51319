"""Which device a stage runs on, and honest timing on it. Nothing here imports PyTorch before it is needed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common import phases
from common.errors import NoDevice
from common.machine import gpu_locks, main_memory
from common.machine.lock_files import scheduler_job

if TYPE_CHECKING:
    import torch

_job_gpus: int | None = None
_tf32 = True


def choose(name: str = "auto") -> torch.device:
    """The device that the configuration names.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        NoDevice: `cuda` is asked for and there is none.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NoDevice(f"execution.device: {name!r} is not on this machine; set it to auto or cpu")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = _tf32
    return device


@contextlib.contextmanager
def leased(name: str = "auto", sharers: int = 1) -> Iterator[torch.device]:
    """A device for this process alone, if it is a GPU: waits until the job has its GPUs.

    Args:
        name: As in `choose`.
        sharers: As in `lease`.

    Raises:
        NoDevice: As in `lease`.
    """
    gpus = job_gpus()
    with lease(name, 1 if gpus is None else gpus, sharers) as devices:
        if devices[0].type == "cuda":
            import torch

            torch.cuda.set_device(devices[0])
        yield devices[0]


@contextlib.contextmanager
def lease(name: str, count: int, sharers: int = 1) -> Iterator[list[torch.device]]:
    """So many devices for this job alone; waits until they are free. One may be shared.

    Snakemake counts GPUs but does not hand them out. So a job locks as many as its rule asks for of those
    that CUDA_VISIBLE_DEVICES (or the machine) offers; the kernel frees the locks when the process ends,
    however it ends. Locks belong to a user, on the whole machine, or inside of a scheduler's job to that job,
    and to a name: all jobs should call GPUs by numbers, or all by UUIDs. Nothing is locked where a scheduler
    has set the devices, nor with `cuda:<index>`. On a CPU the process keeps the memory that it frees,
    and is refused what the machine does not have.

    Args:
        name: As in `choose`.
        count: How many; 0 is the CPU. On a CPU that is asked for by name, so many processes share it.
        sharers: How many jobs may have the GPU at a time, if one is asked for. A job that shares with none
            never has a GPU that another has.

    Raises:
        NoDevice: Fewer are offered, or as in `choose`.
    """
    import torch

    if count == 0 and name != "auto" and name != "cpu":
        raise NoDevice(f"execution.device is {name}, but the job has resources.gpu: 0: set device to auto")
    device = torch.device("cpu") if count == 0 else choose(name)
    if device.type == "cpu":
        keep_memory()
        main_memory.limit()
        phases.note_devices(["CPU"], torch.get_num_threads())
        yield [device] * (max(count, 1) if name == "cpu" else 1)
    elif device.index is not None:
        if count > 1:
            raise NoDevice(f"execution.device: {name} is one GPU, not {count}: set it to auto or cuda")
        phases.note_devices([f"GPU {names()[device.index]}"], 1)
        yield [device]
    else:
        offered = names()
        if len(offered) < count:
            raise NoDevice(
                f"{count} GPUs are wanted and {len(offered)} offered (CUDA_VISIBLE_DEVICES or the machine): "
                "lower execution.gpus_per_run or resources.gpu"
            )
        if scheduler_job() and len(offered) == count:
            phases.note_devices([f"GPU {gpu}" for gpu in offered], 1)
            yield [torch.device("cuda", index) for index in range(count)]
            return
        share = sharers if count == 1 else 1
        with (
            gpu_locks.share_locked(offered, share)
            if share > 1
            else gpu_locks.locked(offered, count) as indices
        ):
            phases.note_devices([f"GPU {offered[index]}" for index in indices], 1 / share)
            yield [torch.device("cuda", index) for index in indices]


def names() -> list[str]:
    """What the GPUs are called that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")][:count] if visible else [*map(str, range(count))]


def set_gpus(count: int | None) -> None:
    """Says how many GPUs the job of this process asked for; None if nobody did."""
    global _job_gpus
    _job_gpus = count


def unused_gpus() -> str | None:
    """A sentence if this job computes on the CPU although a scheduler gave it GPUs; None if not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if _job_gpus == 0 and scheduler_job() and visible not in ("", "-1", "NoDevFiles"):
        return (
            f"resources.gpu is 0, so this job computes on the CPU, although it was given the GPU {visible}: "
            "set resources.gpu to 1, and resources.gres if the cluster wants GPUs to be asked for by that"
        )
    return None


def set_tf32(allowed: bool) -> None:
    """Says whether convolutions on GPUs that are chosen from now on may round what they multiply to TF32."""
    global _tf32
    _tf32 = allowed


def job_gpus() -> int | None:
    """How many GPUs the job of this process asked for."""
    return _job_gpus


def held(index: int) -> contextlib.AbstractContextManager[None]:
    """Keeps a GPU that the parent of this process has leased, should that end before.

    Args:
        index: Of the GPU.
    """
    return gpu_locks.kept(names()[index])


def keep_memory() -> None:
    """Has the C library keep large blocks for their next use.

    GNU's gives them back to the system whenever they are freed. To get them again at every training step,
    zeroed page by page, can take a third of the step.
    """
    trim_threshold, mmap_max = -1, -4  # as in malloc.h
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


@cache
def _processor() -> str:
    """The name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> str:
    """The name of the device as tables show it.

    A CPU has the number of threads in use with it, and a GPU says if its convolutions do without TF32.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device) + ("" if _tf32 else ", without TF32")
    return f"{_processor()}, {torch.get_num_threads()} threads"


def set_threads(threads: int | None) -> None:
    """Uses `threads` CPU threads for tensor operations, or as many as this process may run on."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call of `function`, the device's queue emptied before and after."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start
