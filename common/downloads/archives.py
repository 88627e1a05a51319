"""The files that datasets are unpacked from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is unpacked from, by `snakemake data_<name>`.

    Attributes:
        name: The name of the file: `.zip`, `.tar` or compressed `.tar`.
        places: What is unpacked, as paths in the archive, and where it lies below the dataset's folder;
            lists of images come last, so that a dataset that has them is complete. An archive of one place
            may also be flat: have the content of that place without the folder.
        address: Where it is downloaded from; None if that needs a login.
        sha256: Its digest; None if none is published.
        login: For an archive without an address: where to log in and what to download.
    """

    name: str
    places: Mapping[str, str]
    address: str | None = None
    sha256: str | None = None
    login: str = ""
