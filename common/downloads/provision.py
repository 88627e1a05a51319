"""Getting one archive of a dataset: downloaded or put there by hand, compared, unpacked, and written down."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.downloads.archives import Archive
from common.downloads.http import fetch
from common.downloads.unpacking import BadArchive, unpack
from common.errors import UserError
from common.files import read_record, write_record


@dataclass(frozen=True)
class Receipt:
    """What was unpacked; where no digest is published, that is all there is to compare.

    Attributes:
        address: Where it was to be had; None if that needed a login.
        sha256: Its digest.
        published: Whether that was known before.
        bytes: Its size.
        when: In ISO 8601.
    """

    address: str | None
    sha256: str
    published: bool
    bytes: int
    when: str


def state(folder: Path) -> Path:
    """Where downloads to a dataset's folder and their receipts lie."""
    return folder / ".downloads"


def check_login(archive: Archive, folder: Path) -> None:
    """Checks that an archive can be had.

    Args:
        archive: The archive.
        folder: The dataset's folder.

    Raises:
        UserError: It needs a login, and was not put into the folder.
    """
    if archive.address is None and not (folder / archive.name).exists():
        raise UserError(
            f"{archive.name} is not to be had without a login: {archive.login}, put it into {folder} "
            "and run again"
        )


def provide(archive: Archive, folder: Path) -> None:
    """Unpacks an archive that was put into the dataset's folder, or else is downloaded, and then deleted.

    Raises:
        UserError: It cannot be downloaded, it is another file, damaged or unsafe, or the disk is full.
    """
    path = folder / archive.name
    own = path.exists()  # what a user put there is the user's
    if not own:
        path = state(folder) / archive.name
        if not path.exists():
            fetch(str(archive.address), path)
    try:
        print(f"checking and unpacking {path}", flush=True)
        digest = _digest(archive, path)
        unpack(path, folder, archive.places)
        _write_down(archive, folder, path, digest)
    except BadArchive as error:
        if not own:
            path.unlink()
        remedy = "delete it and run again" if own else "it was deleted, run again"
        raise UserError(f"{error}; {remedy}") from None
    if not own:
        path.unlink()


def _digest(archive: Archive, path: Path) -> str:
    """The digest of a file, compared with that of the archive.

    Raises:
        BadArchive: It is another one.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if archive.sha256 and digest != archive.sha256.lower():
        raise BadArchive(
            f"{path} has the SHA-256 {digest}, not {archive.sha256.lower()} as in the dataset or in "
            f"download.files.{archive.name}.sha256: it is damaged or another file"
        )
    return digest


def _write_down(archive: Archive, folder: Path, path: Path, digest: str) -> None:
    """Writes the receipt of an archive, and says if it was another one before."""
    receipt = state(folder) / f"{archive.name}.json"
    if not archive.sha256:
        print(f"no digest of {archive.name} is published; this one has the SHA-256 {digest}", flush=True)
        if receipt.exists():
            before = read_record(receipt, Receipt, "delete it and run again").sha256
            if before != digest:
                print(
                    f"structseg: {archive.name} had the SHA-256 {before} when it was got before", flush=True
                )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    size = path.stat().st_size
    write_record(receipt, Receipt(archive.address, digest, archive.sha256 is not None, size, now))
