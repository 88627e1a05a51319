"""Which device a stage runs on, and honest timing on it. Nothing here imports PyTorch before it is needed."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from common.errors import NoDevice, UserError
from common.files import private, unwritable

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.5
"""How long to wait before looking for a free GPU again."""

LOCKS = Path(
    os.environ.get("STRUCTSEG_LOCKS") or ("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
)
"""Where jobs lock GPUs and the machine: one place per machine, whatever `TMPDIR` says, which Snakemake sets
for its jobs. STRUCTSEG_LOCKS names another, as for containers that share a machine but no /tmp."""

SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "PJM_JOBID")
"""The variables with which SLURM, PBS, LSF, OAR and Fujitsu's scheduler name their jobs."""

_job_gpus: int | None = None


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
    return device


@contextlib.contextmanager
def leased(name: str = "auto") -> Iterator[torch.device]:
    """A device for this process alone, if it is a GPU: waits until the job has its GPUs.

    Args:
        name: As in `choose`.

    Raises:
        NoDevice: As in `lease`.
    """
    gpus = job_gpus()
    with lease(name, 1 if gpus is None else gpus) as devices:
        if devices[0].type == "cuda":
            import torch

            torch.cuda.set_device(devices[0])
        yield devices[0]


@contextlib.contextmanager
def lease(name: str, count: int) -> Iterator[list[torch.device]]:
    """So many devices for this job alone; waits until they are free.

    Snakemake counts GPUs but does not hand them out. So a job locks as many as its rule asks for of those
    that CUDA_VISIBLE_DEVICES (or the machine) offers; the kernel frees the locks when the process ends,
    however it ends. Locks belong to a user, on the whole machine, or inside of a scheduler's job to that job,
    and to a name: all jobs should call GPUs by numbers, or all by UUIDs. Nothing is locked where a scheduler
    has set the devices, nor with `cuda:<index>`. On a CPU the process keeps the memory that it frees.

    Args:
        name: As in `choose`.
        count: How many; 0 is the CPU. On a CPU that is asked for by name, so many processes share it.

    Raises:
        NoDevice: Fewer are offered, or as in `choose`.
    """
    import torch

    if count == 0 and name != "auto" and name != "cpu":
        raise NoDevice(f"execution.device is {name}, but the job has resources.gpu: 0: set device to auto")
    device = torch.device("cpu") if count == 0 else choose(name)
    if device.type == "cpu":
        keep_memory()
        yield [device] * (max(count, 1) if name == "cpu" else 1)
    elif device.index is not None:
        if count > 1:
            raise NoDevice(f"execution.device: {name} is one GPU, not {count}: set it to auto or cuda")
        yield [device]
    else:
        offered = names()
        if len(offered) < count:
            raise NoDevice(
                f"{count} GPUs are wanted and {len(offered)} offered (CUDA_VISIBLE_DEVICES or the machine): "
                "lower execution.gpus_per_run or resources.gpu"
            )
        if scheduler_job() and len(offered) == count:
            yield [torch.device("cuda", index) for index in range(count)]
            return
        with _locked(offered, count) as indices:
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


def job_gpus() -> int | None:
    """How many GPUs the job of this process asked for."""
    return _job_gpus


def scheduler_job() -> str | None:
    """The job of a scheduler that this process belongs to."""
    return next(filter(None, map(os.environ.get, SCHEDULERS)), None)


@contextlib.contextmanager
def _locked(offered: Sequence[str], count: int) -> Iterator[list[int]]:
    """Locks so many of the offered GPUs and gives their indices.

    Who waits stands in a queue: only its first takes GPUs, one after the other as they get free. So two who
    wait never hold what the other needs, and one who wants several is not overtaken for ever.
    """
    folder = lock_folder(scheduler_job())
    with contextlib.ExitStack() as held:
        directory = os.open(folder, os.O_RDONLY)
        held.callback(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_SH)  # systemd-tmpfiles leaves old files in locked folders alone
        with private((folder / "queue.lock").open("a")) as queue:
            fcntl.flock(queue, fcntl.LOCK_EX)
            files = [held.enter_context(private((folder / f"gpu-{gpu}.lock").open("a"))) for gpu in offered]
            taken: list[int] = []
            waiting = False
            while len(taken) < count:
                taken += _lock(files, set(range(len(files))) - set(taken), count - len(taken))
                if len(taken) < count:
                    if not waiting:
                        print(f"structseg: waits for {count} of the GPUs {', '.join(offered)}", flush=True)
                    waiting = True
                    time.sleep(POLL_SECONDS)
            for index in taken:  # the processes of a training hold theirs too (`held`)
                fcntl.flock(files[index], fcntl.LOCK_SH)
        yield sorted(taken)


def _lock(files: Sequence[IO[str]], free: Iterable[int], count: int) -> list[int]:
    """Locks at most `count` of the files, if nobody has them; gives their indices."""
    taken: list[int] = []
    for index in sorted(free):
        with contextlib.suppress(BlockingIOError):
            if len(taken) < count:
                fcntl.flock(files[index], fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken.append(index)
    return taken


@contextlib.contextmanager
def held(index: int) -> Iterator[None]:
    """Keeps a GPU that the parent of this process has leased, should that end before.

    Args:
        index: Of the GPU.
    """
    if scheduler_job():  # its GPUs may be leased or given; nobody else's job takes them
        yield
        return
    with private((lock_folder(None) / f"gpu-{names()[index]}.lock").open("a")) as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def lock_folder(job: str | None) -> Path:
    """The folder of this user's locks on this machine; of one job of a scheduler, if that is named.

    Raises:
        UserError: It belongs to another user or cannot be made.
    """
    folder = LOCKS / f"structseg-{os.getuid()}-{job or 'local'}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}, for locks of GPUs and machine, belongs to another user: have it removed")
    return folder


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
    """The name of the device as tables show it; a CPU with the number of threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
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
