"""Reading and writing files so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import DiskFull, UnreadableRecord, UserError

Record = TypeVar("Record")

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""The ranges of numbers in records; all of them are finite."""


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends well.

    If the block raises, or the process dies in it, `path` is as it was before.

    Args:
        path: The file to write; its folder is made if it is missing.
        mode: `"w"` for text (UTF-8) or `"wb"` for bytes.

    Raises:
        DiskFull: There is no room for it.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)  # mkstemp is private; results are shared in a lab
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if no_room(error):
            raise disk_full(path) from None
        raise


def disk_full(path: Path) -> DiskFull:
    """What to say when there is no room for `path`."""
    return DiskFull(
        f"{path} cannot be written, the disk is full: make room and give the same command again, "
        "it goes on from what is there"
    )


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that of a full disk: PyTorch raises one of its own over it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; NaN and infinities are refused with a ValueError."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: The file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the earlier stage that writes it") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and run again") from None


def read_record(path: Path, kind: type[Record], remedy: str) -> Record:
    """Reads a JSON file that holds one record, and checks its keys, types and ranges.

    JSON knows neither NaN nor infinities: a file that has them is refused.

    Args:
        path: The file.
        kind: The class of the record, a dataclass.
        remedy: What to do about a file that is damaged.

    Raises:
        UnreadableRecord: It is missing, cannot be read, or is no such record.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise UnreadableRecord(f"{path} is missing: run the earlier stage that writes it") from None
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise UnreadableRecord(f"{path} cannot be read ({error}): {remedy}") from None


def write_record(path: Path, record: Any) -> None:
    """Writes a record as `write_json` does; what it has none of (None) is null."""
    write_json(path, msgspec.to_builtins(record))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file that the evaluate stage wrote.

    Raises:
        UserError: It is damaged.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and evaluate again") from None


def cache_folder() -> Path:
    """Where the user keeps what can be made anew: `$XDG_CACHE_HOME/structseg`, or `~/.cache/structseg`.

    Raises:
        RuntimeError: The user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "structseg"


def digest(content: Any, length: int = 10) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@contextlib.contextmanager
def private(file: IO[Any]) -> Iterator[IO[Any]]:
    """Closes a file when the block ends, and at once in processes that are forked meanwhile.

    A process that loads data is forked and inherits every open file, and with it the lock on it. It outlives
    by some seconds the process that it works for, if that is killed.
    """
    _private.add(file)
    try:
        with file:
            yield file
    finally:
        _private.discard(file)


_private: set[IO[Any]] = set()


def _close_private() -> None:
    for file in _private:
        file.close()
    _private.clear()


os.register_at_fork(after_in_child=_close_private)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive kernel lock on `path` for the block; a dead process holds none.

    A file system without such locks is pointed out, and nothing is held.

    Raises:
        UserError: Another living process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with private(path.open("a+")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{path.parent} is being written by process {file.read().strip() or '?'}: "
                "wait for it or stop it, then run again"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            print(
                f"structseg: the file system of {path.parent} has no locks ({error.strerror}): see to it "
                "that no two Snakemakes write there",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
