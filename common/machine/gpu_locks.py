"""The locks of GPUs: which of those that a machine offers a job has, alone or together with others."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from common import phases
from common.machine import lock_files
from common.machine.lock_files import scheduler_job


@contextlib.contextmanager
def locked(offered: Sequence[str], count: int) -> Iterator[list[int]]:
    """Locks so many of the offered GPUs, which nobody else has or shares, and gives their indices."""
    with _of("gpu-{}.lock", offered) as files, _of("gpu-{}-shared.lock", offered) as shared:
        with _first_in_queue(f"{count} of the GPUs {', '.join(offered)}") as waits:
            indices: list[int] = []
            while len(indices) < count:
                for index in set(range(len(files))) - set(indices):
                    if len(indices) < count and _lock(files[index]):
                        if _lock(shared[index]):
                            indices.append(index)
                        else:
                            fcntl.flock(files[index], fcntl.LOCK_UN)
                waits(len(indices) < count)
            for index in indices:  # the processes of a training hold theirs too (`kept`)
                fcntl.flock(files[index], fcntl.LOCK_SH)
                fcntl.flock(shared[index], fcntl.LOCK_UN)
        yield sorted(indices)


@contextlib.contextmanager
def share_locked(offered: Sequence[str], sharers: int) -> Iterator[list[int]]:
    """Locks a share of one of the offered GPUs, of the one that the fewest have, and gives its index."""
    shares = [f"gpu-{{}}-share-{share}.lock" for share in range(sharers)]
    with (
        _of("gpu-{}.lock", offered) as files,
        _of("gpu-{}-shared.lock", offered) as shared,
        contextlib.ExitStack() as opened,
    ):
        places = [place for share in shares for place in enumerate(opened.enter_context(_of(share, offered)))]
        indices: list[int] = []
        with _first_in_queue(f"a share of the GPUs {', '.join(offered)}") as waits:
            while not indices:
                for index, share in places:
                    if not indices and _lock(files[index]):
                        if _lock(share):
                            fcntl.flock(shared[index], fcntl.LOCK_SH)
                            indices.append(index)
                        fcntl.flock(files[index], fcntl.LOCK_UN)
                waits(not indices)
        yield indices


@contextlib.contextmanager
def _first_in_queue(what: str) -> Iterator[Callable[[bool], None]]:
    """Waits until nobody waits for GPUs who has come before; yields what waits for a moment, if it is to.

    Only the first of the queue takes GPUs, one after the other as they get free. So two who wait never hold
    what the other needs, and one who wants several is not overtaken for ever.

    Args:
        what: What is waited for, for a message.
    """
    with phases.during(phases.WAITING), lock_files.opened(scheduler_job(), "queue.lock") as (queue,):
        fcntl.flock(queue, fcntl.LOCK_EX)
        waiting = False

        def wait(lacking: bool) -> None:
            """Waits a moment if something is lacking, and says so once."""
            nonlocal waiting
            if lacking and not waiting:
                print(f"structseg: waits for {what}", flush=True)
                waiting = True
            if lacking:
                time.sleep(lock_files.POLL_SECONDS)

        yield wait


def _of(name: str, offered: Sequence[str]) -> contextlib.AbstractContextManager[list[IO[str]]]:
    """Opens files of locks, one per GPU, with that in the place of the braces."""
    return lock_files.opened(scheduler_job(), *map(name.format, offered))


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
    with lock_files.opened(None, f"gpu-{gpu}.lock") as (file,):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
