"""One file over HTTP: resumed, retried, checked."""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.files import read_record, write_record

TRIES = 5
"""How often a connection may fail in a row before any more has come."""

PAUSE = 1.0
"""Seconds to wait after a first failure; twice as long after each further one."""

TIMEOUT = 60
"""Seconds after which a silent server has failed."""

CHUNK = 1 << 20
"""Bytes that are read at a time."""

HEADERS = {"Accept-Encoding": "identity", "User-Agent": "structseg"}

CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""What a connection that fails raises."""


class ConnectionFailed(Exception):
    """A connection failed; it may work when it is tried again."""


@dataclass(frozen=True)
class Origin:
    """Which version of which file the beginning of a download is of.

    Attributes:
        address: Where it comes from.
        version: The server's ETag, or the time of the file's last change.
    """

    address: str
    version: str


def fetch(address: str, target: Path) -> None:
    """Downloads a file; goes on with one that was cut if the server's has not changed since.

    Args:
        address: An http or https address.
        target: The file, which appears when it is whole; until then its beginning is in `<target>.part`.

    Raises:
        UserError: The server cannot be reached or has no such file, or the disk is full.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"{address} is no address: it must begin with http:// or https://")
    print(f"downloading {address}", flush=True)
    part = target.with_name(f"{target.name}.part")
    failures, most = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            resume(address, part)
        except ConnectionFailed as error:
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > most else failures + 1
            most = max(most, size)
            if failures >= TRIES or (failures == 1 and not part.exists()):
                raise UserError(_offline(address, target, str(error))) from None
            time.sleep(PAUSE * 2 ** (failures - 1))
        else:
            break
    part.replace(target)
    _origin(part).unlink(missing_ok=True)


def _offline(address: str, target: Path, reason: str) -> str:
    """What to do about a server that cannot be reached."""
    begun = target.with_name(f"{target.name}.part").exists()
    kept = " what has come is kept, run again to go on;" if begun else ""
    return (
        f"{address} cannot be reached ({reason}):{kept} if this machine is offline, download it elsewhere "
        f"and put it into {target.parent.parent}, or name a mirror in download.files.{target.name}.address"
    )


def _origin(part: Path) -> Path:
    """The file that has the `Origin` of a part."""
    return part.with_name(f"{part.name}.json")


def resume(address: str, part: Path) -> None:
    """Downloads what a part lacks.

    Raises:
        ConnectionFailed: The connection fails or ends early.
        UserError: The server refuses, or the disk has no room.
    """
    offset, request = 0, urllib.request.Request(address, headers=HEADERS)
    path = _origin(part)
    origin = read_record(path, Origin, "delete it and run again") if path.exists() else None
    if part.exists() and origin is not None and origin.address == address:
        offset = part.stat().st_size
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", origin.version)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:
                offset = 0
            elif _start(response) != offset:
                part.unlink()
                raise ConnectionFailed("the server sent another part than it was asked for")
            _receive(response, address, part, offset)
    except urllib.error.HTTPError as error:
        _refused(error, address, part, offset)
    except CUT as error:
        raise ConnectionFailed(str(getattr(error, "reason", None) or error) or type(error).__name__) from None


def _refused(error: urllib.error.HTTPError, address: str, part: Path, offset: int) -> None:
    """Looks at what a server says instead of sending what comes behind `offset`; returns if there is no more.

    Raises:
        ConnectionFailed: It may say something else when it is asked again.
        UserError: It refuses.
    """
    if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{offset}"):
        return  # all of it was there
    if error.code == 416:
        part.unlink()
        raise ConnectionFailed("the file has become shorter")
    if error.code >= 500 or error.code == 429:
        raise ConnectionFailed(f"{error.code} {error.reason}")
    raise UserError(
        f"{address} is refused ({error.code} {error.reason}): get {part.stem} elsewhere and put it into "
        f"{part.parent.parent}, or name a mirror in download.files.{part.stem}.address"
    )


def _start(response: http.client.HTTPResponse) -> int | None:
    """Where the part of the file begins that a response has."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _receive(response: http.client.HTTPResponse, address: str, part: Path, offset: int) -> None:
    """Writes what comes behind the first `offset` bytes of a part.

    Raises:
        ConnectionFailed: The connection ended early.
        UserError: The disk has no room.
    """
    length = response.headers.get("Content-Length")
    if length and int(length) > shutil.disk_usage(part.parent).free:
        raise UserError(
            f"{address} has {int(length) / 1e9:.1f} GB more, for which the disk of {part.parent} has no room"
        )
    total = offset + int(length) if length else None
    tag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    version = date if tag.startswith("W/") or not tag else tag
    if version:  # without one a later part may be of another file
        write_record(_origin(part), Origin(address, version))
    else:
        _origin(part).unlink(missing_ok=True)
    progress = tqdm(
        total=total,
        initial=offset,
        desc=part.stem,
        unit="B",
        unit_scale=True,
        disable=None,
        dynamic_ncols=True,
    )
    with part.open("ab" if offset else "wb") as file, progress:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            progress.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionFailed(f"the connection ended after {part.stat().st_size} of {total} bytes")
