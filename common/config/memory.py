"""What is remembered from one call to the next, in the user's cache folder.

It only saves time: a file that is damaged counts as missing, and a folder that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import UserError
from common.files import cache_folder, read_record, write_record

Record = TypeVar("Record")


def recall(name: str, kind: type[Record]) -> Record | None:
    """What was remembered under a name; None if there is nothing, or nothing of this kind.

    Args:
        name: The name, with a digest of everything that the content depends on.
        kind: The class of the record.
    """
    with contextlib.suppress(UserError, RuntimeError):  # it cannot be read, or there is no home
        return read_record(_path(name), kind, "delete it")
    return None


def remember(name: str, record: Any) -> None:
    """Writes a record for `recall`, unless it would not come back as it is.

    Args:
        name: The name.
        record: A dataclass or a plain value.
    """
    with contextlib.suppress(UserError, OSError, RuntimeError, TypeError, ValueError):
        content = json.loads(json.dumps(msgspec.to_builtins(record), allow_nan=False))
        if msgspec.convert(content, type(record)) == record:
            write_record(_path(name), record)


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.json"
