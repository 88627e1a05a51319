"""The bootstrap over images of differences between results, remembered in a file.

What it says of a pair of results is kept under what that depends on, the content of the files of counts; so
tables of many runs are made again in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import digest, read_json, replacing
from common.scoring.counts import SplitCounts
from common.tables import intervals
from common.tables.intervals import ImageLevel
from common.tables.sides import METRICS, Side

_VERSION = 1
_SIDES_KEPT = 2500  # 80 KB each
NO_IMAGES = ImageLevel(*[float("nan")] * 4)
"""What is known of a difference without counts per image."""


class Resampled(NamedTuple):
    """The score of resamples of the images, as the mean over the seeds of a side.

    Attributes:
        names: Digest of the names of the images.
        images: N.
        means: `[resamples]`.
    """

    names: str
    images: int
    means: NDArray[np.float32]


class Bootstrap:
    """What resampling the images says of differences between sides."""

    def __init__(self, path: Path | None) -> None:
        """
        Args:
            path: Where to remember, or None. A file that cannot be read is as good as none.
        """
        self.path = path
        self.known: dict[str, list[Any]] = {}
        self.changed = False
        self._contents: dict[Path, str | None] = {}
        self._resampled: OrderedDict[tuple[str, ...], dict[str, Resampled]] = OrderedDict()
        if path is not None:
            with contextlib.suppress(UserError):
                content = read_json(path)
                self.known = content if isinstance(content, dict) else {}

    def difference(
        self, metric: str, side: Side, baseline: Side, seeds: Sequence[int]
    ) -> tuple[ImageLevel, int, str]:
        """What resampling the images says of a mean difference.

        Args:
            metric: One of `METRICS`.
            side: What is compared.
            baseline: What it is compared with.
            seeds: Seeds that both have.

        Returns:
            Variance and interval in 0..1, the number of images, and why it is unknown if it is.
        """
        files = [[s.files[seed] for seed in seeds] for s in (side, baseline)]
        contents: list[list[str]] = []
        for paths in files:
            digests = [content for content in map(self._content, paths) if content is not None]
            if len(digests) < len(paths):
                return NO_IMAGES, 0, "no counts per image"
            contents.append(digests)
        key = digest([_VERSION, metric, intervals.RESAMPLES, *contents], length=24)
        if key not in self.known:
            self.known[key] = self._compute(metric, files, contents)
            self.changed = True
        *values, images, note = self.known[key]
        return ImageLevel(*(float("nan") if value is None else value for value in values)), images, note

    def _compute(self, metric: str, files: list[list[Path]], contents: list[list[str]]) -> list[Any]:
        """The values of an `ImageLevel`, None for NaN, the number of images and a note."""
        try:
            side, baseline = (self._side(metric, *pair) for pair in zip(files, contents))
        except UserError as error:
            return [*[None] * 4, 0, str(error)]
        if side.names != baseline.names:
            return [*[None] * 4, 0, "different images"]
        result = intervals.resampled_difference(side.means, baseline.means)
        return [*(None if np.isnan(value) else value for value in result), side.images, ""]

    def _side(self, metric: str, files: list[Path], contents: list[str]) -> Resampled:
        """Resamples of a side, computed once as long as there are not too many sides."""
        key = tuple(contents)
        if key not in self._resampled:
            self._resampled[key] = resampled_scores(files)
            if len(self._resampled) > _SIDES_KEPT:
                self._resampled.popitem(last=False)
        self._resampled.move_to_end(key)
        return self._resampled[key][metric]

    def _content(self, path: Path) -> str | None:
        """A digest of what is in the file, None without it."""
        if path not in self._contents:
            try:
                self._contents[path] = hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()
            except OSError:
                self._contents[path] = None
        return self._contents[path]

    def save(self) -> None:
        """Remembers what was computed."""
        if self.path is not None and self.changed:
            with replacing(self.path) as file:
                json.dump(self.known, file, allow_nan=False)
            self.changed = False


def resampled_scores(files: Sequence[Path]) -> dict[str, Resampled]:
    """Reads the counts of all seeds of a side, and scores their resamples by every one of `METRICS`.

    Raises:
        UserError: A file cannot be read, or the files are of different images.
    """
    names, counts = zip(*map(_counts, files))
    if len(set(names)) > 1:
        raise UserError("different images")
    hits, union = np.moveaxis(np.stack(counts, axis=1), 2, 0)  # [metrics, seeds, N, K] each
    means = intervals.resampled_mean_iou(hits, union).mean(axis=1, dtype=float).astype(np.float32)
    return {metric: Resampled(names[0], union.shape[2], values) for metric, values in zip(METRICS, means)}


def _counts(path: Path) -> tuple[str, NDArray[np.int64]]:
    """A digest of the images' names; and for each of `METRICS` intersection and union, `[2, 2, N, K]`."""
    counts = SplitCounts.read(path)
    hits = np.diagonal(counts.confusion, axis1=-2, axis2=-1)
    union = counts.confusion.sum(axis=-1) + counts.confusion.sum(axis=-2) - hits
    pairs = {"miou": np.stack([hits, union]), "boundary_iou": np.moveaxis(counts.boundary, 1, 0)}
    names = hashlib.blake2b(np.asarray(counts.names).tobytes(), digest_size=12).hexdigest()
    return names, np.stack([pairs[metric] for metric in METRICS])
