"""Unpacking archives of strangers: nothing is written outside the folder, and all of a part or nothing."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple

from tqdm import tqdm

from common.errors import UserError

UNPACKING = ".unpacking-"
"""How the temporary folders begin."""

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, RuntimeError)
"""What a damaged archive raises; RuntimeError is an encrypted one or an unknown compression."""


class BadArchive(UserError):
    """An archive is damaged, unsafe or another one than it should be."""


class Member(NamedTuple):
    """One entry of an archive.

    Attributes:
        path: Its path there.
        kind: `file`, `folder` or `other`.
        size: Bytes that it has when it is unpacked.
        open: Opens a file for reading.
    """

    path: PurePosixPath
    kind: Literal["file", "folder", "other"]
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, places: Mapping[str, str]) -> None:
    """Unpacks parts of an archive; each of them appears whole, those that are there already stay.

    Links and devices are refused, and so is an archive with any path that leads outside.

    Args:
        archive: A `.zip`, or a `.tar`, which may be compressed.
        folder: What the places are relative to.
        places: Paths in the archive and where they go. If there is only one and the archive does not have it,
            the whole archive is its content.

    Raises:
        BadArchive: The archive is damaged, unsafe, or lacks a part.
        UserError: The disk has no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=UNPACKING, dir=folder))
    try:
        files = _extract(archive, temporary, [PurePosixPath(part) for part in places])
        if not files and len(places) == 1:
            flat = temporary / next(iter(places))
            flat.parent.mkdir(parents=True, exist_ok=True)
            files = _extract(archive, flat, [PurePosixPath()])
        lacking = [part for part in places if not (temporary / part).exists()]
        if not files or lacking:
            raise BadArchive(f"{archive} lacks {', '.join(lacking or places)}: it is another file")
        for part, place in places.items():
            target = folder / place
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / part, target)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadArchive(f"{archive} cannot be unpacked ({reason}): it is damaged") from None
    except OSError as error:
        if error.errno is None:  # not of the disk, but of a decompressor
            raise BadArchive(f"{archive} cannot be unpacked ({error}): it is damaged") from None
        raise UserError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clean(folder: Path) -> None:
    """Removes what processes that were killed have left of unpacking there."""
    for path in folder.glob(f"{UNPACKING}*"):
        shutil.rmtree(path, ignore_errors=True)


def _extract(archive: Path, folder: Path, parts: list[PurePosixPath]) -> int:
    """Unpacks what lies in some paths of an archive and says how many files these are."""
    room, count = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free, 0
    for member in tqdm(_members(archive), desc=archive.name, unit="file", disable=None, dynamic_ncols=True):
        path = member.path
        if path.is_absolute() or ".." in path.parts:
            raise BadArchive(f"{archive} has the path {path}, which leads outside: do not trust it")
        if not any(path.is_relative_to(part) for part in parts):
            continue
        if member.kind == "other":
            raise BadArchive(f"{archive} has a link or a device, {path}: do not trust it")
        target = folder / path
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        room -= member.size
        if room < 0:
            raise UserError(f"{archive} needs more room than the disk of {folder.parent} has: make some")
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        count += 1
    return count


def _members(archive: Path) -> Iterator[Member]:
    """The entries of an archive, of either kind."""
    return _members_of_zip(archive) if zipfile.is_zipfile(archive) else _members_of_tar(archive)


def _members_of_zip(archive: Path) -> Iterator[Member]:
    """The entries of a `.zip`."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
            kind: Literal["file", "folder", "other"]
            kind = "folder" if info.is_dir() else "file" if regular else "other"
            yield Member(PurePosixPath(info.filename), kind, info.file_size, partial(opened.open, info))


def _members_of_tar(archive: Path) -> Iterator[Member]:
    """The entries of a `.tar`, which may be compressed.

    Raises:
        tarfile.ReadError: It was cut.
    """
    with tarfile.open(archive) as opened:
        for info in opened:
            kind: Literal["file", "folder", "other"]
            kind = "folder" if info.isdir() else "file" if info.isreg() else "other"
            yield Member(PurePosixPath(info.name), kind, info.size, partial(_open_in_tar, opened, info))
        # tarfile takes what was cut between members for whole
        if opened.fileobj is not None and opened.fileobj.tell() == opened.offset:
            raise tarfile.ReadError("it has no end")


def _open_in_tar(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    """Opens a file of a `.tar`."""
    content = opened.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name} has no content")
    return content
