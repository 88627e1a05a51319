"""Whether files of results are as they were written, and what becomes of those that are not."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from common.errors import Damaged, UnreadableRecord
from common.files import Count, read_bytes, unreadable

LARGEST_ARRAYS = 2**32
"""Bytes that the arrays of a file may have together; more is no file of ours."""

_CHUNK = 2**20

_LOCAL_HEADER = 30
"""So many bytes stand in front of the name of a file in an archive; the last four are two lengths."""

_ENCRYPTED = 1
"""The bit that says so of a file in an archive."""


@dataclass(frozen=True)
class StoredFile:
    """What a record says of a file that was written with it.

    Attributes:
        size: In bytes.
        sha256: The SHA-256 of its content, in hexadecimal digits.
    """

    size: Count
    sha256: str

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """What there is to say of a file that was just written."""
        with path.open("rb") as file:
            return cls(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())

    @classmethod
    def all_of(cls, paths: Iterable[Path]) -> dict[str, StoredFile]:
        """What there is to say of several files, by their names; those that are not there are left out."""
        return {path.name: cls.of(path) for path in paths if path.exists()}

    def check_size(self, path: Path, remedy: str) -> None:
        """Checks a file without reading it.

        Args:
            path: The file.
            remedy: What to do about one that is damaged.

        Raises:
            UnreadableRecord: It is missing.
            Damaged: It has another size, or is no file.
            Unreachable: The system does not say.
        """
        try:
            state = path.stat()
        except FileNotFoundError:
            raise UnreadableRecord(f"{path} is missing: {remedy}") from None
        except OSError as error:
            raise unreadable(path, error) from None
        if not stat.S_ISREG(state.st_mode):
            raise Damaged(path, "cannot be read (it is no file)", remedy)
        self._compare_size(path, state.st_size, remedy)

    def check(self, path: Path, remedy: str) -> None:
        """Checks size and content of a file; arguments and errors as of `check_size`."""
        self.check_size(path, remedy)
        try:
            sha256 = StoredFile.of(path).sha256
        except OSError as error:
            raise unreadable(path, error) from None
        self._compare_content(path, sha256, remedy)

    def check_content(self, path: Path, content: bytes, remedy: str) -> None:
        """Checks what was read of a file.

        Args:
            path: The file.
            content: What was read.
            remedy: What to do about one that is damaged.

        Raises:
            Damaged: It is another file.
        """
        self._compare_size(path, len(content), remedy)
        self._compare_content(path, hashlib.sha256(content).hexdigest(), remedy)

    def _compare_size(self, path: Path, size: int, remedy: str) -> None:
        if size != self.size:
            raise Damaged(path, f"has {size} bytes, not the {self.size} that its record tells of", remedy)

    def _compare_content(self, path: Path, sha256: str, remedy: str) -> None:
        if sha256 != self.sha256:
            digests = f"{sha256[:10]}…, not {self.sha256[:10]}…"
            reason = f"is not the file that its record tells of (SHA-256 {digests})"
            raise Damaged(path, reason, remedy)


def set_aside(path: Path) -> Path:
    """Renames what is damaged, so that it is missing and made again, and returns its new name.

    Raises:
        OSError: It cannot be renamed.
    """
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    targets = (path.with_name(f"{path.name}.damaged{ending}") for ending in endings)
    return path.rename(next(target for target in targets if not os.path.lexists(target)))


def forget(path: Path) -> None:
    """Removes a file if it is there; a folder in its place is renamed."""
    if path.is_dir():
        set_aside(path)
    else:
        path.unlink(missing_ok=True)


def read_arrays(
    path: Path, remedy: str, stored: StoredFile | None = None, only: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file of results, which cannot be written to.

    Args:
        path: The file.
        remedy: What to do about one that is damaged.
        stored: What its record says of it, if there is one.
        only: The names of those that are wanted; by default all. What is not there is left out.

    Raises:
        UnreadableRecord: It is missing.
        Damaged: It is not as it was written.
        Unreachable: The system does not let it be read.
    """
    content = read_bytes(path, remedy)
    if stored:
        stored.check_content(path, content, remedy)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [info for info in archive.infolist() if only is None or _array_name(info) in only]
            size = sum(info.file_size for info in members)
            if size > LARGEST_ARRAYS:
                raise ValueError(f"it would be {size} bytes")
            return {_array_name(info): _array(_member(archive, info, content)) for info in members}
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # a damaged file fails in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Damaged(path, f"cannot be read ({reason})", remedy) from None


def _array_name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> bytes:
    """What a file in an archive contains.

    `ZipFile.read` takes longer to open a small file than to inflate it, and holds a large one twice.

    Args:
        archive: The archive.
        info: The file.
        content: Of the archive.

    Raises:
        ValueError: It is damaged; `zipfile` and `zlib` have errors of their own.
    """
    if info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & _ENCRYPTED:
        return archive.read(info)
    name = info.header_offset + _LOCAL_HEADER
    lengths = content[name - 4 : name]  # of the name and of what else stands before the data
    start = name + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    packed = memoryview(content)[start : start + info.compress_size]
    most = max(1, info.file_size)  # what is packed may be far more than the archive tells of
    result = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
    if len(result) != info.file_size or zlib.crc32(result) != info.CRC:
        raise ValueError(f"{info.filename} is not what the archive tells of")
    return result


def _array(content: bytes) -> NDArray[Any]:
    """The array in an `.npy` file, whose header says no more than is there; it is not copied.

    Raises:
        ValueError: There is none.
    """
    size = 10 + int.from_bytes(content[8:10], "little")
    shape, by_column, kind = _header(content[:size])
    length = math.prod(shape) * kind.itemsize
    if kind.hasobject or length != len(content) - size:
        raise ValueError(f"an array {shape} of {kind} in {len(content)} bytes")
    return np.frombuffer(content, kind, offset=size).reshape(shape, order="F" if by_column else "C")


@lru_cache(maxsize=1024)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type, from the header of an `.npy` file; many have the same.

    Raises:
        ValueError: It is none, or longer than 64 kB.
    """
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"an array of format {version}")
    return npy.read_array_header_1_0(stream)


def check_records(file: IO[bytes]) -> None:
    """Checks the CRC-32 of all records of a file of PyTorch, which `torch.load` does not.

    Args:
        file: The file, which is read whole; its position is where it was.

    Raises:
        ValueError: It is no such file, or damaged.
        OSError: The system does not let it be read.
    """
    start = file.tell()
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} is compressed")
            with archive.open(info) as record:
                while record.read(_CHUNK):
                    pass
    file.seek(start)


DAMAGE = (ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What `zipfile` raises for a damaged archive."""
