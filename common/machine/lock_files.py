"""The files of this machine's locks, and where they lie.

They belong to a user and a machine: they are the same for all clones, Snakemakes and jobs of a scheduler that
see the same folder of locks. The kernel frees a lock when a process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.errors import UserError
from common.files import private, unwritable

POLL_SECONDS = 0.5
"""How long to wait before looking again whether a lock is free."""

LOCKS = Path(
    os.environ.get("STRUCTSEG_LOCKS") or ("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
)
"""Where the folders of locks lie: one place per machine, whatever `TMPDIR` says, which Snakemake sets for its
jobs. STRUCTSEG_LOCKS names another, as for containers that share a machine but no /tmp."""

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
def opened(job: str | None, *names: str) -> Iterator[list[IO[str]]]:
    """Opens files of locks for the block; closing them frees the locks.

    Processes that are forked meanwhile do not keep them.

    Args:
        job: Whose folder they lie in, as of `lock_folder`.
        names: Of the files.
    """
    folder = lock_folder(job)
    with contextlib.ExitStack() as stack:
        directory = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_SH)  # systemd-tmpfiles leaves old files in locked folders alone
        yield [stack.enter_context(private((folder / name).open("a"))) for name in names]
