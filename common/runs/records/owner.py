"""The check that a record belongs to the job in whose folder it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UnreadableRecord


def check_owner(path: Path, record: Any, job: Any, keys: tuple[str, ...], remedy: str) -> None:
    """Checks that a record is of the job in whose folder it lies.

    Args:
        path: The file of the record.
        record: The record.
        job: The job.
        keys: What must be equal in both.
        remedy: What to do about a file that does not belong there.

    Raises:
        UnreadableRecord: It is of another job.
    """
    for key in keys:
        if getattr(record, key) != getattr(job, key):
            raise UnreadableRecord(
                f"{path} does not belong to its folder: its {key} is {getattr(record, key)}, not "
                f"{getattr(job, key)}: {remedy}"
            )
