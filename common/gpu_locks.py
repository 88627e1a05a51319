"""The locks of GPUs: which of those that a machine offers a job has, alone or together with others.

They are files; the kernel frees them when a process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from common import phases
from common.errors import UserError
from common.files import private, unwritable

POLL_SECONDS = 0.5
"""How long to wait before looking for a free GPU again."""

LOCKS = Path(
    os.environ.get("STRUCTSEG_LOCKS") or ("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
)
"""Where jobs lock GPUs and the machine: one place per machine, whatever `TMPDIR` says, which Snakemake sets
for its jobs. STRUCTSEG_LOCKS names another, as for containers that share a machine but no /tmp."""

SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "PJM_JOBID")
"""The variables with which SLURM, PBS, LSF, OAR and Fujitsu's scheduler name their jobs."""


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


def scheduler_job() -> str | None:
    """The job of a scheduler that this process belongs to."""
    return next(filter(None, map(os.environ.get, SCHEDULERS)), None)


@contextlib.contextmanager
def locked(offered: Sequence[str], count: int) -> Iterator[list[int]]:
    """Locks so many of the offered GPUs, which nobody else has or shares, and gives their indices."""
    with _opened("gpu-{}.lock", offered) as files, _opened("gpu-{}-shared.lock", offered) as shared:
        with _first_in_queue(f"{count} of the GPUs {', '.join(offered)}") as waits:
            taken: list[int] = []
            while len(taken) < count:
                for index in set(range(len(files))) - set(taken):
                    if len(taken) < count and _lock(files[index]):
                        if _lock(shared[index]):
                            taken.append(index)
                        else:
                            fcntl.flock(files[index], fcntl.LOCK_UN)
                waits(len(taken) < count)
            for index in taken:  # the processes of a training hold theirs too (`kept`)
                fcntl.flock(files[index], fcntl.LOCK_SH)
                fcntl.flock(shared[index], fcntl.LOCK_UN)
        yield sorted(taken)


@contextlib.contextmanager
def share_locked(offered: Sequence[str], sharers: int) -> Iterator[list[int]]:
    """Locks a share of one of the offered GPUs, of the one that the fewest have, and gives its index."""
    shares = [f"gpu-{{}}-share-{share}.lock" for share in range(sharers)]
    with (
        _opened("gpu-{}.lock", offered) as files,
        _opened("gpu-{}-shared.lock", offered) as shared,
        contextlib.ExitStack() as opened,
    ):
        places = [
            place for share in shares for place in enumerate(opened.enter_context(_opened(share, offered)))
        ]
        taken: list[int] = []
        with _first_in_queue(f"a share of the GPUs {', '.join(offered)}") as waits:
            while not taken:
                for index, share in places:
                    if not taken and _lock(files[index]):
                        if _lock(share):
                            fcntl.flock(shared[index], fcntl.LOCK_SH)
                            taken.append(index)
                        fcntl.flock(files[index], fcntl.LOCK_UN)
                waits(not taken)
        yield taken


@contextlib.contextmanager
def _first_in_queue(wanted: str) -> Iterator[Callable[[bool], None]]:
    """Waits until nobody waits for GPUs who has come before; yields what waits for a moment, if it is to.

    Only the first of the queue takes GPUs, one after the other as they get free. So two who wait never hold
    what the other needs, and one who wants several is not overtaken for ever.

    Args:
        wanted: What is waited for, for a message.
    """
    file = (lock_folder(scheduler_job()) / "queue.lock").open("a")
    with phases.during(phases.WAITING), private(file) as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        waiting = False

        def wait(lacking: bool) -> None:
            """Waits a moment if something is lacking, and says so once."""
            nonlocal waiting
            if lacking and not waiting:
                print(f"structseg: waits for {wanted}", flush=True)
                waiting = True
            if lacking:
                time.sleep(POLL_SECONDS)

        yield wait


@contextlib.contextmanager
def _opened(name: str, offered: Sequence[str]) -> Iterator[list[IO[str]]]:
    """Files of locks, one per GPU, with that in the place of the braces; closing them frees the locks."""
    folder = lock_folder(scheduler_job())
    with contextlib.ExitStack() as opened:
        directory = os.open(folder, os.O_RDONLY)
        opened.callback(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_SH)  # systemd-tmpfiles leaves old files in locked folders alone
        yield [opened.enter_context(private((folder / name.format(gpu)).open("a"))) for gpu in offered]


def _lock(file: IO[str]) -> bool:
    """Locks a file, if nobody has it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextlib.contextmanager
def kept(gpu: str) -> Iterator[None]:
    """Keeps a GPU that the parent of this process has locked, should that end before.

    Args:
        gpu: What it is called.
    """
    if scheduler_job():  # its GPUs may be leased or given; nobody else's job takes them
        yield
        return
    with private((lock_folder(None) / f"gpu-{gpu}.lock").open("a")) as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
