"""Errors that a user can cause, and how a stage reports the way it failed."""

from __future__ import annotations

from pathlib import Path

WORKFLOW = "STRUCTSEG_WORKFLOW"
"""The environment variable that names a running workflow, the same in all of its jobs."""


class UserError(Exception):
    """A mistake in the configuration, the data or the environment, told in one sentence.

    The sentence says what is wrong, where, and what to do. Every entry point prints it without a
    traceback and exits with status 2.

    Attributes:
        kind: What kind of failure it is, for `error.json`.
    """

    kind = "input"

    @classmethod
    def again(cls, sentence: str, kind: str) -> UserError:
        """An error that was met before."""
        error = cls(sentence)
        error.kind = kind
        return error


class Diverged(UserError):
    """The loss of a training run is not finite any more."""

    kind = "diverged"


class NoDevice(UserError):
    """This machine lacks a device, which another machine may have."""

    kind = "device"


class OutOfMemory(UserError):
    """The memory of a GPU or of the machine is too small for a run."""

    kind = "out of memory"


class DiskFull(UserError):
    """There is no room left where results are written."""

    kind = "disk"


class Unreachable(UserError):
    """A file cannot be reached now or here, which may be the fault of a disk, a network or a machine."""

    kind = "storage"


class UnreadableRecord(UserError):
    """A file of results is missing, damaged, or does not belong where it lies."""

    kind = "record"


class Damaged(UnreadableRecord):
    """A file of results is not as a stage wrote it, or does not belong where it lies.

    Attributes:
        path: The file.
        reason: What is wrong with it, to be read behind its name.
    """

    kind = "damaged"

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        """
        Args:
            path: The file.
            reason: What is wrong with it, to be read behind its name.
            remedy: What to do about it.
        """
        super().__init__(f"{path} {reason}: {remedy}")
        self.path, self.reason = path, reason


class LoaderDied(UserError):
    """A process that loads images has ended before its time."""

    kind = "data loader"

    def __init__(self) -> None:
        super().__init__(
            "a process that loads images has died, often for lack of memory: set execution.workers lower "
            "or resources.mem_mb higher and give the same command again: a training goes on from its last "
            "checkpoint"
        )


HOPELESS = (UserError.kind, Diverged.kind, Damaged.kind)
"""Kinds of failures that a retry meets again."""
