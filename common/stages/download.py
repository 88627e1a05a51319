"""Stage `download`: gets the archives of a dataset, checks and unpacks them.

`snakemake data_<name>` calls it. A download that was cut goes on where it ended. What is there already is
left alone. A file that was downloaded by other means, on another machine or after a login, may be put into
the dataset's folder under its name.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.config import entries
from common.config.settings import DownloadSource, typed
from common.datasets.base import Dataset
from common.datasets.on_disk import FileDataset
from common.downloads.archives import Archive
from common.downloads.provision import check_login, provide, state
from common.downloads.unpacking import clean
from common.errors import UserError
from common.files import locked
from common.stages import entry


def download(dataset: Dataset, sources: Mapping[str, DownloadSource]) -> Path:
    """Gets what a dataset lacks and says where it is.

    Args:
        dataset: The dataset.
        sources: Other places of archives than their own, by their names.

    Returns:
        The dataset's folder.

    Raises:
        UserError: It cannot be downloaded, a file is not the right one, or it must be got by hand.
    """
    if not isinstance(dataset, FileDataset) or not dataset.archives:
        raise UserError(f"dataset {dataset.entry}: there is nothing to download")
    if dataset.problem() is None:
        print(f"dataset {dataset.entry} is in {dataset.folder}")
        return dataset.folder
    try:
        dataset.folder.mkdir(parents=True, exist_ok=True)
        with locked(state(dataset.folder) / "lock"):
            clean(dataset.folder)
            print(f"dataset {dataset.entry}: {dataset.terms}", flush=True)
            lacking = [archive for archive in dataset.archives if not dataset.has(archive)]
            _provide_all([_at_source(archive, sources) for archive in lacking], dataset.folder)
    except OSError as error:
        place = f"dataset {dataset.entry} cannot be written to {dataset.folder}"
        raise UserError(f"{place}: {error.strerror or error}") from None
    problem = dataset.problem()
    if problem is not None:
        raise problem
    print(f"dataset {dataset.entry} is in {dataset.folder}")
    return dataset.folder


def _at_source(archive: Archive, sources: Mapping[str, DownloadSource]) -> Archive:
    """An archive with the address and digest that the configuration has for it, if any."""
    source = sources.get(archive.name, DownloadSource())
    address = archive.address if source.address is None else source.address
    sha256 = archive.sha256 if isinstance(source.sha256, msgspec.UnsetType) else source.sha256
    return dataclasses.replace(archive, address=address, sha256=sha256)


def _provide_all(archives: list[Archive], folder: Path) -> None:
    """Gets archives and unpacks them into the folder of a dataset.

    Raises:
        UserError: One cannot be had, is not the right one, or the disk is full.
    """
    for archive in archives:  # before hours of downloading others
        check_login(archive, folder)
    for archive in archives:
        provide(archive, folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command line."""
    parser.add_argument("--dataset", required=True)
    entry.add_configuration(parser)


def run(arguments: argparse.Namespace) -> None:
    """Gets the files of the dataset."""
    files = arguments.config["download"]["files"]
    sources = {name: typed(DownloadSource, source) for name, source in files.items()}
    try:
        download(entries.dataset(arguments.config, arguments.dataset), sources)
    except KeyboardInterrupt:
        raise UserError("interrupted; the same command goes on from there") from None
