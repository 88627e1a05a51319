"""Which pretrained weights a training starts from: told apart by content, wherever they lie.

The SHA-256 of a file is taken once, when planning first sees it, and kept in a small record in the results:
where the file is not at hand, as on a laptop that only tabulates, the record says what it was.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from common.errors import UnreadableRecord, UserError
from common.files import read_record, write_record
from common.networks import weight_files

PLACES = 8
"""How many places of a file are kept."""


@dataclass(frozen=True)
class WeightsFile:
    """`weights/<name>.json` in the results: the content of a file of weights.

    Attributes:
        name: Of the file.
        sha256: Of its content.
        seen: Size and time of change of the files that have been read, by their paths: they are not read
            again.
    """

    name: str
    sha256: str
    seen: dict[str, tuple[int, int]]

    @classmethod
    def path(cls, results: Path, name: str) -> Path:
        """Where the record of a file of that name lies."""
        return results / "weights" / f"{name}.json"

    @classmethod
    def read(cls, path: Path) -> WeightsFile:
        """Reads a record.

        Raises:
            UserError: It is missing, damaged or out of reach.
        """
        return read_record(path, cls, "delete it and run again, with the file of weights at hand")

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)


@dataclass(frozen=True)
class Identity:
    """What the first weights of a training are.

    Attributes:
        content: What is part of digests.
        sha256: Of the file; None if there is none, or none is known.
    """

    content: Any
    sha256: str | None = None


def identity(weights: str, model: str, results: Path) -> Identity:
    """What the option `weights` of a model names.

    Args:
        weights: `none`, `imagenet`, or a file.
        model: Name of the model.
        results: The folder of all results, with the records of files.

    Raises:
        UserError: The file is another one than results were made with, or cannot be read.
    """
    if weights == "none":
        return Identity(weights)
    if weights == "imagenet":
        return Identity([weights, weight_files.hub_revision(model)])
    sha256 = _file_sha256(weights, model, results)
    return Identity([PurePath(weights).name, sha256], sha256)


def _file_sha256(weights: str, model: str, results: Path) -> str | None:
    """The SHA-256 of a file of weights, by the file or its record; None if there is neither."""
    place = WeightsFile.path(results, PurePath(weights).name)
    try:
        record = WeightsFile.read(place)
    except UnreadableRecord:
        if place.exists():
            raise
        record = None
    if not weight_files.is_there(weights):
        return record.sha256 if record else None
    path = weight_files.find_weights(weights).absolute()
    state = path.stat()
    now = (state.st_size, state.st_mtime_ns)
    if record and record.seen.get(str(path)) == now:
        return record.sha256
    sha256 = weight_files.file_sha256(path)
    if record and record.sha256 != sha256:
        raise UserError(
            f"model_options.{model}.weights: {path} is not the file of that name that results in {results} "
            f"were made with (its SHA-256 is {sha256[:10]}…, and {place} says {record.sha256[:10]}…): bring "
            "that file back, or give this one another name, or, if no results of the other one are wanted, "
            f"delete {place}"
        )
    states = [*(record.seen.items() if record else ()), (str(path), now)][-PLACES:]
    with contextlib.suppress(UserError, OSError):  # a file system that is read-only
        WeightsFile(place.name.removesuffix(".json"), sha256, dict(states)).write(place)
    return sha256
