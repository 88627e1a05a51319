"""Stage `download`: gets the archives of a dataset, checks and unpacks them. `snakemake data_<name>` calls
it.

A download that was cut goes on where it ended. What is there already is left alone. A file that was
downloaded by other means, on another machine or after a login, may be put into the dataset's folder under
its name.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from common import config as configuration
from common import stages
from common.archives import BadArchive, clean, unpack
from common.config import Config
from common.datasets.base import Archive
from common.datasets.files import FileDataset
from common.errors import UserError
from common.files import locked, read_json, write_json

TRIES = 5
"""How often a connection may fail in a row before any more has come."""

PAUSE = 1.0
"""Seconds to wait after a first failure; twice as long after each further one."""

TIMEOUT = 60
"""Seconds after which a silent server has failed."""

CHUNK = 1 << 20

HEADERS = {"Accept-Encoding": "identity", "User-Agent": "structseg"}


CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""What a connection that fails raises."""


class Unreachable(Exception):
    """A connection failed; it may work when it is tried again."""


def download(config: Config, name: str) -> Path:
    """Gets what a dataset lacks and says where it is.

    Raises:
        UserError: It cannot be downloaded, a file is not the right one, or it must be got by hand.
    """
    dataset = configuration.dataset(config, name)
    if not isinstance(dataset, FileDataset) or not dataset.archives:
        raise UserError(f"dataset {name}: there is nothing to download")
    if problem(dataset) is None:
        print(f"dataset {name} is in {dataset.folder}")
        return dataset.folder
    try:
        dataset.folder.mkdir(parents=True, exist_ok=True)
        with locked(state(dataset.folder) / "lock"):
            clean(dataset.folder)
            print(f"dataset {name}: {dataset.terms}", flush=True)
            wanted = [
                _as_configured(archive, config) for archive in dataset.archives if not dataset.has(archive)
            ]
            for archive in wanted:  # before hours of downloading others
                _check_login(dataset.folder, archive)
            for archive in wanted:
                _provide(dataset.folder, archive)
    except OSError as error:
        place = f"dataset {name} cannot be written to {dataset.folder}"
        raise UserError(f"{place}: {error.strerror or error}") from None
    found = problem(configuration.dataset(config, name))
    if found is not None:
        raise found
    print(f"dataset {name} is in {dataset.folder}")
    return dataset.folder


def problem(dataset: FileDataset) -> UserError | None:
    """What is wrong with the lists of a dataset's images, or None if they are all there."""
    try:
        for split in dataset.splits:
            dataset.names(split)
    except UserError as error:
        return error
    return None


def state(folder: Path) -> Path:
    """Where downloads to a dataset's folder and the records of them lie."""
    return folder / ".downloads"


def _as_configured(archive: Archive, config: Config) -> Archive:
    return replace(archive, **config["download"]["files"].get(archive.name, {}))


def _check_login(folder: Path, archive: Archive) -> None:
    if archive.address is None and not (folder / archive.name).exists():
        raise UserError(
            f"{archive.name} is not to be had without a login: {archive.login}, put it into {folder} "
            "and run again"
        )


def _provide(folder: Path, archive: Archive) -> None:
    """Unpacks an archive that was put into the dataset's folder, or else is downloaded, and then deleted."""
    path = folder / archive.name
    if path.exists():
        after = "delete it and run again"
    else:
        path = state(folder) / archive.name
        after = "it was deleted, run again"
        if not path.exists():
            fetch(str(archive.address), path)
    try:
        print(f"checking and unpacking {path}", flush=True)
        digest = _check(archive, path)
        unpack(path, folder, archive.places)
        _record(folder, archive, path, digest)
    except BadArchive as error:
        if path.parent != folder:
            path.unlink()
        raise UserError(f"{error}; {after}") from None
    if path.parent != folder:
        path.unlink()


def _check(archive: Archive, path: Path) -> str:
    """The digest of a file, compared with that of the archive.

    Raises:
        BadArchive: It is another one.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if archive.sha256 and digest != archive.sha256.lower():
        raise BadArchive(
            f"{path} has the SHA-256 {digest}, not {archive.sha256.lower()} as in the data set or in "
            f"download.files.{archive.name}.sha256: it is damaged or another file"
        )
    return digest


def _record(folder: Path, archive: Archive, path: Path, digest: str) -> None:
    """Writes down what was unpacked; where no digest is published, that is all there is to compare."""
    record = state(folder) / f"{archive.name}.json"
    if not archive.sha256:
        print(f"no digest of {archive.name} is published; this one has the SHA-256 {digest}", flush=True)
        before = read_json(record)["sha256"] if record.exists() else digest
        if before != digest:
            print(f"structseg: {archive.name} had the SHA-256 {before} when it was got before", flush=True)
    write_json(
        record,
        {
            "address": archive.address,
            "sha256": digest,
            "published": archive.sha256 is not None,
            "bytes": path.stat().st_size,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


# HTTP


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
            _continue(address, part)
        except Unreachable as error:
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > most else failures + 1
            most = max(most, size)
            if failures >= TRIES or (failures == 1 and not part.exists()):
                raise UserError(_offline(address, target, str(error))) from None
            time.sleep(PAUSE * 2 ** (failures - 1))
        else:
            break
    part.replace(target)
    _about(part).unlink(missing_ok=True)


def _offline(address: str, target: Path, reason: str) -> str:
    kept = " what has come is kept, run again to go on;" if _begun(target) else ""
    return (
        f"{address} cannot be reached ({reason}):{kept} if this machine is offline, download it elsewhere "
        f"and put it into {target.parent.parent}, or name a mirror in download.files.{target.name}.address"
    )


def _begun(target: Path) -> bool:
    return target.with_name(f"{target.name}.part").exists()


def _about(part: Path) -> Path:
    """Which version of which file a part is of."""
    return part.with_name(f"{part.name}.json")


def _continue(address: str, part: Path) -> None:
    """Downloads what a part lacks.

    Raises:
        Unreachable: The connection fails or ends early.
        UserError: The server refuses, or the disk has no room.
    """
    offset, request = 0, urllib.request.Request(address, headers=HEADERS)
    about = read_json(_about(part)) if _about(part).exists() else {}
    if part.exists() and about.get("address") == address:
        offset = part.stat().st_size
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", about["version"])
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:
                offset = 0
            elif _start(response) != offset:
                part.unlink()
                raise Unreachable("the server sent another part than it was asked for")
            _receive(response, address, part, offset)
    except urllib.error.HTTPError as error:
        _refused(error, address, part, offset)
    except CUT as error:
        raise Unreachable(str(getattr(error, "reason", None) or error) or type(error).__name__) from None


def _refused(error: urllib.error.HTTPError, address: str, part: Path, offset: int) -> None:
    if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{offset}"):
        return  # all of it was there
    if error.code == 416:
        part.unlink()
        raise Unreachable("the file has become shorter")
    if error.code >= 500 or error.code == 429:
        raise Unreachable(f"{error.code} {error.reason}")
    raise UserError(
        f"{address} is refused ({error.code} {error.reason}): get {part.stem} elsewhere and put it into "
        f"{part.parent.parent}, or name a mirror in download.files.{part.stem}.address"
    )


def _start(response: http.client.HTTPResponse) -> int | None:
    """Where the part of the file begins that a response has."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _receive(response: http.client.HTTPResponse, address: str, part: Path, offset: int) -> None:
    """Writes what comes behind the first `offset` bytes of a part."""
    length = response.headers.get("Content-Length")
    if length and int(length) > shutil.disk_usage(part.parent).free:
        raise UserError(
            f"{address} has {int(length) / 1e9:.1f} GB more, for which the disk of {part.parent} has no room"
        )
    total = offset + int(length) if length else None
    tag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    version = date if tag.startswith("W/") or not tag else tag
    if version:  # without one a later part may be of another file
        write_json(_about(part), {"address": address, "version": version})
    else:
        _about(part).unlink(missing_ok=True)
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
        raise Unreachable(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _main() -> None:
    parsed = stages.arguments("Gets the files of a dataset.", "dataset", listed=False)
    try:
        download(parsed.config, parsed.dataset)
    except KeyboardInterrupt:
        raise UserError("interrupted; the same command goes on from there") from None


if __name__ == "__main__":
    stages.main(_main)
