"""How a stage fails: a record beside the results that says why, in one sentence, and of what kind it is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.errors import HOPELESS, WORKFLOW, DiskFull, LoaderDied, OutOfMemory, UnreadableRecord, UserError
from common.files import disk_full, no_room, read_record, write_record


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
            UnreadableRecord: It is missing or damaged.
        """
        return read_record(path, cls, "delete it")

    @classmethod
    def last(cls, path: Path) -> Failure | None:
        """The record, or None if there is none that can be read: it may be in the midst of being written."""
        try:
            return cls.read(path)
        except UnreadableRecord:
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
def recording_failure(
    path: Path, stage: str, about: str = "this job", remedy: str = "use a GPU with more memory"
) -> Iterator[None]:
    """Leaves an `error.json` at `path` if the block fails, and removes its own old one if not.

    If a retry by the same workflow would fail as before, because of its input or because the loss is not
    finite, it fails at once.

    Args:
        path: Where to write.
        stage: The name of the stage; stages that share a folder leave each other's files alone.
        about: What is computed, for a GPU that is too small for it.
        remedy: What to do then.
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
        error = _explained(error, about, remedy, path.parent)
        with contextlib.suppress(OSError, DiskFull):  # a full disk must not hide the error itself
            write_record(path, Failure.of(error, stage))
        raise error
    after = Failure.last(path)
    if path.exists() and (after is None or after.stage == stage):
        path.unlink(missing_ok=True)


def _explained(error: Exception, about: str, remedy: str, folder: Path) -> Exception:
    """What PyTorch or the system says of a machine's limits, as a sentence of ours."""
    if not isinstance(error, UserError) and no_room(error):
        return disk_full(folder)
    torch = sys.modules.get("torch")  # where it was not imported, nothing of it can have failed
    if torch and isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"the GPU's memory is too small for {about}: {remedy}")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return LoaderDied()
    return error
