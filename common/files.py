"""Reading and writing files so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from common import phases
from common.errors import Damaged, DiskFull, Unreachable, UnreadableRecord, UserError

Record = TypeVar("Record")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""The ranges of numbers in records; all of them are finite."""

_CHECKSUM = re.compile(rb',\n "record_sha256": "([0-9a-f]{64})"\n}\n?\Z')
"""What the file of a record ends with."""

_ENDING = 100
"""It is not longer than that, in bytes."""


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends well.

    If the block raises, or the process dies in it, `path` is as it was before.

    Args:
        path: The file to write; its folder is made if it is missing.
        mode: `"w"` for text (UTF-8) or `"wb"` for bytes.

    Raises:
        DiskFull: There is no room for it.
        Unreachable: It cannot be written here or now: the file system is read-only, or it is not permitted.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)  # mkstemp is private; results are shared in a lab
        text = None if "b" in mode else "utf-8"
        with phases.during(phases.WRITING), os.fdopen(descriptor, mode, encoding=text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        trouble = system_error(error)
        if trouble and _is_about(trouble, path):
            raise unwritable(path, trouble) from None
        raise


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is one of writing a file, not of reading what is to be written."""
    if error.filename is None:
        return True
    place = Path(os.fsdecode(error.filename))
    return place.is_relative_to(path.parent) or path.is_relative_to(place)


def disk_full(path: Path) -> DiskFull:
    """What to say when there is no room for `path`."""
    return DiskFull(
        f"{path} cannot be written, the disk is full: make room and give the same command again, "
        "it goes on from what is there"
    )


def system_error(error: BaseException | None) -> OSError | None:
    """The system's error that is, or has led to, an error, if any: PyTorch raises one of its own over it."""
    while error is not None:
        if isinstance(error, OSError):
            number = re.search(r"\[Errno (\d+)\]", str(error))  # all that is left of one of a loading process
            if error.errno:
                return error
            if number:
                return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__
    return None


def unwritable(path: Path, error: OSError) -> UserError:
    """What to say when the system does not let a file be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(path)
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        place = path if error.errno == errno.EISDIR else error.filename or path
        return UserError(f"{path} cannot be written, {place} is in the way: move that away and run again")
    return Unreachable(
        f"{path} cannot be written ({error.strerror}): give yourself the right to write there, or choose "
        "another folder, and run again"
    )


def check_writable(folder: Path) -> None:
    """Checks that a folder can be written to, or be made where it is missing, and leaves nothing there.

    Raises:
        DiskFull: There is no room.
        Unreachable: It is not permitted, or the file system is read-only.
        UserError: A file is in the way.
    """
    try:
        end = folder.resolve()  # of a link, too, that leads nowhere yet
        place = next(place for place in (end, *end.parents) if place.exists())
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(folder, error) from None


def unreadable(path: Path, error: OSError) -> UserError:
    """What to say when the system does not let a file be read, which says nothing about what is in it."""
    return Unreachable(
        f"{path} cannot be read now ({error.strerror or error}): see to the disk or to your rights there and "
        "run again"
    )


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; NaN and infinities are refused with a ValueError."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UnreadableRecord: The file is missing or is no JSON.
        Unreachable: The system does not let it be read.
    """
    remedy = "delete it and run again"
    try:
        return json.loads(read_bytes(path, remedy))
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"cannot be read ({error})", remedy) from None


def read_record(path: Path, kind: type[Record], remedy: str, edited: bool = False) -> Record:
    """Reads a JSON file that holds one record, and checks its keys, types and ranges, and its checksum.

    JSON knows neither NaN nor infinities: a file that has them is refused.

    Args:
        path: The file.
        kind: The class of the record, a dataclass.
        remedy: What to do about a file that is damaged.
        edited: Whether it may have been edited since it was written.

    Raises:
        UnreadableRecord: It is missing.
        Damaged: It is no such record, or not as it was written.
        Unreachable: The system does not let it be read.
    """
    content = read_bytes(path, remedy)
    try:
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(path, f"cannot be read ({error})", remedy) from None
    if not edited and not _is_as_written(content):
        raise Damaged(path, "is not as it was written (its checksum differs)", remedy)
    return record


def is_as_written(path: Path) -> bool:
    """Whether the file of a record is as `write_record` wrote it; one without a checksum counts as that.

    Raises:
        UserError: It is missing or out of reach.
    """
    return _is_as_written(read_bytes(path, "delete it and run again"))


def _is_as_written(content: bytes) -> bool:
    """Whether what is in the file of a record fits the checksum at its end, if it has one."""
    end = _CHECKSUM.search(content, max(0, len(content) - _ENDING))
    if end is None:
        return b'"record_sha256"' not in content
    return hashlib.sha256(content[: end.start()]).hexdigest().encode() == end[1]


def read_bytes(path: Path, remedy: str) -> bytes:
    """What a file of results contains.

    Args:
        path: The file.
        remedy: What to do about one that is damaged.

    Raises:
        UnreadableRecord: It is missing.
        Damaged: It is a folder.
        Unreachable: The system does not let it be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableRecord(f"{path} is missing: run the earlier stage that writes it") from None
    except IsADirectoryError:
        raise Damaged(path, "cannot be read (it is a folder)", remedy) from None
    except OSError as error:
        raise unreadable(path, error) from None


def write_record(path: Path, record: Any) -> None:
    """Writes a record as `write_json` does; what it has none of (None) is null.

    At its end stands `record_sha256`, the SHA-256 of all that stands before.
    """
    text = json.dumps(msgspec.to_builtins(record), indent=1, allow_nan=False)
    body = text.removesuffix("\n}")
    if body != text:
        text = f'{body},\n "record_sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}'
    with replacing(path) as file:
        file.write(f"{text}\n")


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
def locked(path: Path, waiting: bool = False) -> Iterator[None]:
    """Holds an exclusive kernel lock on `path` for the block; a dead process holds none.

    A file system without such locks is pointed out, and nothing is held.

    Args:
        path: The file.
        waiting: Whether to wait for another living process that holds it.

    Raises:
        UserError: Another living process holds it, and is not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with private(path.open("a+")) as file:
        try:
            with phases.during(phases.WAITING) if waiting else contextlib.nullcontext():
                fcntl.flock(file, fcntl.LOCK_EX | (0 if waiting else fcntl.LOCK_NB))
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
