"""The manifest of a dataset: what the prepare stage found, by which training and evaluation go."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import Damaged, UserError
from common.files import Amount, Count, read_record, write_record
from common.images.names import checked
from common.integrity import StoredFile
from common.provenance import Provenance

REMEDY = "delete it and run the prepare stage again"


@dataclass(frozen=True)
class _Content:
    """The part of a manifest by which other data are told."""

    content_sha256: str


@dataclass(frozen=True)
class SplitManifest:
    """What is in one split.

    Attributes:
        names: The images, in order.
        sizes: Their sizes, each once, as `<width>x<height>`.
        pixels: How many pixels every class has.
        images_with: How many images have every class.
        void_pixels: How many pixels are void.
        colour_mean: Mean of red, green and blue over all pixels, in 0–1.
        colour_std: Their standard deviation.
        sequences: Of every image the sequence that it belongs to and its place in it, None if to none; None
            in manifests that say nothing of it.
        fingerprints: Of every image those of its files, in the order in which they are read, with spaces
            between them (`common.datasets.fingerprints`).
    """

    names: list[str]
    sizes: list[str]
    pixels: dict[str, Count]
    images_with: dict[str, Count]
    void_pixels: Count
    colour_mean: tuple[float, float, float]
    colour_std: tuple[float, float, float]
    sequences: list[tuple[str, int] | None] | None = None
    fingerprints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """The record of a dataset.

    Attributes:
        dataset: Its name in the configuration.
        options: All of its options.
        digest: Of the options that its content depends on.
        class_names: One name per class.
        colours: One RGB colour per class.
        void: The label of void.
        content_sha256: SHA-256 of all pixels and labels, with the split and the size of every image.
        splits: What is in every split.
        provenance: How the record came to be.
        wall_seconds: How long it took.
        notes: What whoever reads results of it should know, in sentences.
        panel: The file of the images that the picture panels show; None if there is none.
    """

    dataset: str
    options: dict[str, Any]
    digest: str
    class_names: list[str]
    colours: list[tuple[int, int, int]]
    void: int
    content_sha256: str
    splits: dict[str, SplitManifest]
    provenance: Provenance
    wall_seconds: Amount
    notes: list[str] = field(default_factory=list)
    panel: StoredFile | None = None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            UserError: It is missing, damaged, that of another dataset, or out of reach.
        """
        manifest = read_record(path, cls, REMEDY)
        if path.stem != f"{manifest.dataset}-{manifest.digest}":
            reason = f"does not belong there: it is of {manifest.dataset}, {manifest.digest}"
            raise Damaged(path, reason, REMEDY)
        names = [*manifest.class_names]
        for split, content in manifest.splits.items():
            if not [*content.pixels] == [*content.images_with] == names:
                raise Damaged(path, f"has counts of other classes in {split}", REMEDY)
            if len(content.fingerprints) != len(content.names):
                raise Damaged(path, f"has no fingerprint of every image in {split}", REMEDY)
            for name in content.names:
                try:
                    checked(name, f"{path}, {split}")
                except UserError as error:
                    raise Damaged(path, f"has a name that is none ({error})", REMEDY) from None
        return manifest

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        write_record(path, self)


def content_of(path: Path) -> str | None:
    """The `content_sha256` of a manifest; None if it is missing or cannot be read."""
    try:
        state = path.stat()
        return _content_of(path, state.st_mtime_ns, state.st_size)
    except (OSError, UserError):
        return None


@lru_cache(64)
def _content_of(path: Path, changed: int, size: int) -> str:
    """The `content_sha256` of a manifest as it is now, which is read once for thousands of results."""
    return read_record(path, _Content, REMEDY, edited=True).content_sha256
