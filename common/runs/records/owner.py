"""The check that a record belongs to the job in whose folder it lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.datasets.manifest import content_of
from common.errors import Damaged, UserError
from common.runs.jobs import Preparation


def check_owner(path: Path, record: Any, job: Any, keys: tuple[str, ...], remedy: str) -> None:
    """Checks that a record is of the job in whose folder it lies.

    Args:
        path: The file of the record.
        record: The record.
        job: The job.
        keys: What must be equal in both.
        remedy: What to do about a file that does not belong there.

    Raises:
        Damaged: It is of another job.
    """
    for key in keys:
        if getattr(record, key) != getattr(job, key):
            reason = f"its {key} is {getattr(record, key)}, not {getattr(job, key)}"
            raise Damaged(path, f"does not belong to its folder: {reason}", remedy)


def check_data(path: Path, contents: Iterable[str], data: Preparation) -> None:
    """Checks that a result is of the data that its dataset has, by the manifest if there is one.

    Args:
        path: The file of the result.
        contents: The `content_sha256` of all data that it comes from.
        data: The dataset.

    Raises:
        UserError: It is of other data.
    """
    content = content_of(data.path)
    if content is not None and {*contents} != {content}:
        raise UserError(
            f"{path} is a result of other images or labels than {data.name} has now: restore the data, or "
            f"give these a name of their own under dataset_options, or delete {path.parent} and run again"
        )
