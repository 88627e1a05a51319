"""Fingerprints of files: by them data are known again, wherever they lie, and changes are noticed."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.datasets.base import Dataset, check_labels
from common.datasets.manifest import Manifest
from common.errors import UserError
from common.images import decoding

GLANCE = 256 * 2**20
"""How many bytes of a dataset are read to see whether it is another one."""


class Reading(NamedTuple):
    """An image that was read, and what it was read from.

    Attributes:
        image: `[H, W, 3]` in RGB.
        labels: `[H, W]` in 0..K−1 or 255 for void.
        fingerprints: Those of its files by their names; of a dataset without files that of the image itself.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    fingerprints: dict[str, str]

    @property
    def line(self) -> str:
        """What a manifest keeps of it."""
        return " ".join(self.fingerprints.values())


def read(dataset: Dataset, split: str, name: str) -> Reading:
    """Reads an image and its labels, with the fingerprints of the very bytes that were decoded.

    Raises:
        UserError: As `Dataset.read` does.
    """
    with decoding.noting() as contents:
        image, labels = dataset.read(split, name)
    check_labels(dataset, split, name, image, labels)
    if contents:
        return Reading(image, labels, {str(path): fingerprint(data) for path, data in contents.items()})
    return _made(split, name, image, labels)


def read_kept(dataset: Dataset, split: str, name: str, expected: str) -> Reading | None:
    """An image that the dataset has kept, if it is the one that a manifest keeps `expected` of; else None."""
    pair = dataset.kept(split, name)
    reading = _made(split, name, *pair) if pair else None
    return reading if reading and reading.line == expected else None


def _made(split: str, name: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Reading:
    """An image without files, with its fingerprint."""
    made = fingerprint(image.tobytes() + labels.tobytes())
    return Reading(image, labels, {f"the image {name} of {split}": made})


def fingerprint(content: bytes) -> str:
    """The size in bytes and 64 bits of BLAKE2b, as `<size>-<digits>`."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}"


def check(reading: Reading, expected: str, manifest: Manifest) -> None:
    """Checks that an image is as it was when the dataset was prepared.

    Args:
        reading: It.
        expected: What the manifest keeps of it.
        manifest: The manifest.

    Raises:
        UserError: It is not.
    """
    if reading.line == expected:
        return
    prints = expected.split()
    changed = [file for file, now in reading.fingerprints.items() if now not in prints]
    raise UserError(
        f"{' and '.join(changed or reading.fingerprints)} changed since {manifest.dataset} was prepared: "
        f"{remedy(manifest)}"
    )


def check_names(dataset: Dataset, manifest: Manifest, split: str) -> None:
    """Checks that a split has the images that it had when the dataset was prepared, in their order.

    Raises:
        UserError: It has not.
    """
    before, now = manifest.splits[split].names, dataset.names(split)
    if before == now:
        return
    more, fewer = (list(dict.fromkeys(a for a in x if a not in y)) for x, y in _both_ways(before, now))
    counts = [
        f"{len(names)} {word}, such as {names[0]}"
        for names, word in ((more, "more"), (fewer, "fewer"))
        if names
    ]
    raise UserError(
        f"dataset {manifest.dataset}: the images of {split} changed since it was prepared "
        f"({'; '.join(counts) or 'they are in another order'}): {remedy(manifest)}"
    )


def _both_ways(before: list[str], now: list[str]) -> tuple[tuple[list[str], set[str]], ...]:
    """Names and those to be left out of them: for what came, and for what went."""
    return (now, {*before}), (before, {*now})


def remedy(manifest: Manifest) -> str:
    """What to do about data that changed."""
    return (
        f"restore the data, or, if the change is meant, delete {manifest.dataset}-{manifest.digest}.json in "
        "the folder datasets of the results and run again"
    )


def difference(dataset: Dataset, manifest: Manifest) -> str:
    """What tells data from those that a manifest is of, at a glance; empty if nothing does.

    The names of all images and the sizes of all files are compared, and the contents of as many as can be
    read in about a second, evenly spread: files that are not compressed all have one size.

    Raises:
        UserError: There are other images.
        OSError: A file is missing or out of reach.
    """
    every = max(1, -(-_size(manifest) // GLANCE))
    for split, content in manifest.splits.items():
        check_names(dataset, manifest, split)
        for index, (name, line) in enumerate(zip(content.names, content.fingerprints)):
            files = dataset.files(split, name)
            sizes = [one.partition("-")[0] for one in line.split()]
            if files and [str(file.stat().st_size) for file in files] != sizes:
                return f"{' or '.join(map(str, files))} has another size"
            looks = files if index % every == 0 else ()
            if looks and [fingerprint(decoding.content(file)) for file in looks] != line.split():
                return f"{' or '.join(map(str, files))} is another one"
    return ""


def _size(manifest: Manifest) -> int:
    """How many bytes all files have together, as a manifest says."""
    lines = (line for content in manifest.splits.values() for line in content.fingerprints)
    return sum(int(one.partition("-")[0]) for line in lines for one in line.split())
