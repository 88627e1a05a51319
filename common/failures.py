"""How a stage fails: a record beside the results that says why, in one sentence, and of what kind it is."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.errors import HOPELESS, WORKFLOW, Damaged, LoaderDied, OutOfMemory, Unreachable, UserError
from common.files import disk_full, read_record, system_error, write_record
from common.integrity import set_aside

_TROUBLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENFILE, errno.EMFILE),
)
"""What the system says of disks, networks and rights, which no file and no code is to blame for."""

_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "unable to mmap")
"""What PyTorch says if the machine's memory is too small."""


@dataclass(frozen=True)
class Failure:
    """`error.json`: why a stage has failed.

    Attributes:
        error: In one sentence.
        kind: Of the error (`UserError.kind`), or `crash`.
        stage: The stage that failed.
        when: In ISO 8601.
        workflow: The workflow that it belonged to, if any.
    """

    error: str
    kind: str
    stage: str
    when: str
    workflow: str | None = None

    @classmethod
    def read(cls, path: Path) -> Failure:
        """Reads the record.

        Raises:
            UserError: It is missing, damaged or out of reach.
        """
        return read_record(path, cls, "delete it")

    @classmethod
    def last(cls, path: Path) -> Failure | None:
        """The record, or None if there is none that can be read: it may be in the midst of being written."""
        try:
            return cls.read(path)
        except UserError:
            return None

    @classmethod
    def of(cls, error: Exception, stage: str) -> Failure:
        """The record of an error that has just happened."""
        kind = error.kind if isinstance(error, UserError) else "crash"
        text = " ".join(str(error).split())
        sentence = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(sentence, kind, stage, now, os.environ.get(WORKFLOW) or None)


@contextlib.contextmanager
def recording_failure(path: Path, stage: str, about: str = "this job", smaller: str = "") -> Iterator[None]:
    """Leaves an `error.json` at `path` if the block fails, and removes its own old one if not.

    If a retry by the same workflow would fail as before, because of its input or because the loss is not
    finite, it fails at once. A file of results that was found damaged is renamed: so it is missing, and the
    next workflow makes it again.

    Args:
        path: Where to write.
        stage: The name of the stage; stages that share a folder leave each other's files alone.
        about: What is computed, for a GPU or a machine that is too small for it.
        smaller: What takes less memory.

    Raises:
        UserError: A retry would fail as before.
    """
    workflow = os.environ.get(WORKFLOW)
    before = Failure.last(path)
    if (
        workflow
        and before
        and (before.stage, before.workflow) == (stage, workflow)
        and before.kind in HOPELESS
    ):
        raise UserError.again(before.error, before.kind)
    try:
        yield
    except Exception as error:
        error = explained(error, about, smaller, path.parent)
        if isinstance(error, Damaged):
            error = renamed(error)
        with contextlib.suppress(OSError, UserError):  # a full disk must not hide the error itself
            write_record(path, Failure.of(error, stage))
        raise error
    after = Failure.last(path)
    if path.exists() and (after is None or after.stage == stage):
        with contextlib.suppress(OSError):  # a folder, which nobody takes for a failure
            path.unlink(missing_ok=True)


def renamed(error: Damaged, then: str = "the next `snakemake` makes it again") -> UserError:
    """Renames a damaged file of results, so that it is missing, and says so.

    Args:
        error: What was found.
        then: What becomes of it.
    """
    try:
        name = set_aside(error.path).name
    except OSError:  # a file system that is read-only, or another process was faster
        return error
    return Damaged(error.path, error.reason, f"it was renamed to {name}, and {then}")


def explained(
    error: Exception,
    about: str = "this",
    smaller: str = "",
    folder: Path | None = None,
) -> Exception:
    """What PyTorch or the system says of a machine's limits, as a sentence of ours; other errors as they are.

    Args:
        error: The error.
        about: What is computed.
        smaller: What takes less memory.
        folder: Where results are written, if the system does not say.
    """
    if isinstance(error, UserError):
        return error
    torch = sys.modules.get("torch")  # where it was not imported, nothing of it can have failed
    if torch and isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(
            f"the GPU's memory is too small for {about}: use {_either(smaller)}a GPU with more memory"
        )
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        return LoaderDied()
    if no_memory(error):
        return OutOfMemory(
            f"the machine's memory is too small for {about}: use {_either(smaller)}a machine with more "
            "memory; or set resources.mem_mb higher, or run less at a time"
        )
    trouble = system_error(error)
    if trouble and trouble.errno in _TROUBLE:
        place = trouble.filename or folder or "a file"
        if trouble.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk_full(Path(os.fsdecode(place)))
        return Unreachable(
            f"{os.fsdecode(place)} cannot be reached ({trouble.strerror}): see to the disk or to your rights "
            "there and run again"
        )
    return error


def _either(smaller: str) -> str:
    """The first of two ways out, if there is one."""
    return f"{smaller}, or " if smaller else ""


def no_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that the machine has not enough memory."""
    trouble = system_error(error)
    if trouble and trouble.errno == errno.ENOMEM:
        return True
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
