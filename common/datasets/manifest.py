"""The manifest of a dataset: what the prepare stage found, by which training and evaluation go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UnreadableRecord
from common.files import Amount, Count, read_record, write_record
from common.provenance import Provenance

REMEDY = "delete it and run the prepare stage again"


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
    """

    names: list[str]
    sizes: list[str]
    pixels: dict[str, Count]
    images_with: dict[str, Count]
    void_pixels: Count
    colour_mean: tuple[float, float, float]
    colour_std: tuple[float, float, float]


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
        content_sha256: SHA-256 of all pixels and labels.
        splits: What is in every split.
        provenance: How the record came to be.
        wall_seconds: How long it took.
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

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            UnreadableRecord: It is missing, damaged, or that of another dataset.
        """
        manifest = read_record(path, cls, REMEDY)
        if path.stem != f"{manifest.dataset}-{manifest.digest}":
            raise UnreadableRecord(
                f"{path} does not belong there: it is of {manifest.dataset}, {manifest.digest}: {REMEDY}"
            )
        names = [*manifest.class_names]
        for split, content in manifest.splits.items():
            if not [*content.pixels] == [*content.images_with] == names:
                raise UnreadableRecord(f"{path} has counts of other classes in {split}: {REMEDY}")
        return manifest

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        write_record(path, self)
