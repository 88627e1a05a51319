"""The bootstrap over images of differences between results, remembered in a file.

What it says of a pair of results is kept under what that depends on, the content of the files of counts; so
tables of many runs are made again in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import digest, read_record, write_record
from common.integrity import StoredFile
from common.scoring.counts import ComparedCounts, SplitCounts
from common.tables import blocks, intervals
from common.tables.blocks import Blocks
from common.tables.intervals import ImageLevel
from common.tables.sides import METRICS, Side

_VERSION = 3
_RESAMPLES_KEPT = 5000  # 40 KB each
_COUNTS_KEPT = 16  # up to 6 MB each

Key = TypeVar("Key")
Value = TypeVar("Value")


class ImageChance(NamedTuple):
    """What resampling the images says of a difference.

    Attributes:
        level: Variance and interval in 0..1, NaN if they are unknown.
        images: The number of images; 0 if they are unknown.
        block: The mean length of the blocks that they were drawn in; 1 is one by one.
        note: Why something is unknown, if it is.
    """

    level: ImageLevel
    images: int
    block: float
    note: str

    @property
    def independent(self) -> float:
        """How many independent images the images are worth."""
        return blocks.independent_images(self.images, self.block)


def no_images(note: str) -> ImageChance:
    """What is known of a difference without counts per image.

    Args:
        note: Why there are none.
    """
    return ImageChance(ImageLevel(*[float("nan")] * 4), 0, 1.0, note)


@dataclass(frozen=True)
class _Remembered:
    """The file that is remembered in: what is known, and the digest of that, which shows damage."""

    sha256: str
    known: dict[str, list[Any]]


class SideCounts(NamedTuple):
    """The counts of all seeds of a side.

    Attributes:
        names: The images.
        ratios: For each of `METRICS` numerators and denominators, `[2, seeds, N, K]`; K is 1 for `miou_i`.
    """

    names: tuple[str, ...]
    ratios: Mapping[str, NDArray[np.integer]]

    @classmethod
    def of(cls, seeds: Sequence[ComparedCounts]) -> SideCounts:
        """From the counts of every seed.

        Raises:
            UserError: They are of different images.
        """
        names = seeds[0].names
        if any(seed.names != names for seed in seeds):
            raise UserError("different images")
        stacked = {metric: np.stack([seed.ratios[metric] for seed in seeds], axis=1) for metric in METRICS}
        return cls(names, stacked)

    def contributions(self, metric: str) -> NDArray[np.float64]:
        """What each image adds to a score, as the mean over the seeds, `[N]`."""
        return blocks.contributions(*self.ratios[metric]).mean(axis=0)

    def resampled(self, metric: str, chosen: Blocks) -> NDArray[np.float32]:
        """A score of resamples of the images, as the mean over the seeds, `[resamples]`."""
        above, below = self.ratios[metric]
        scores = intervals.resampled_mean_iou(above, below, blocks=chosen)
        return scores.mean(axis=0, dtype=float).astype(np.float32)


class Bootstrap:
    """What resampling the images says of differences between sides."""

    def __init__(self, path: Path | None, counted: Mapping[str, ComparedCounts] | None = None) -> None:
        """
        Args:
            path: Where to remember, or None. A file that cannot be read is as good as none.
            counted: Counts that were read before, by the SHA-256 of their files.
        """
        self.path = path
        self._counted = counted or {}
        self.known: dict[str, list[Any]] = {}
        self.changed = False
        self._contents: dict[Path, str | None] = {}
        self._stored: dict[str, StoredFile] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._sides_names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._counts: OrderedDict[tuple[str, ...], SideCounts] = OrderedDict()
        self._added: dict[tuple[str, tuple[str, ...]], NDArray[np.float64]] = {}
        self._resampled: OrderedDict[tuple[str, Blocks, tuple[str, ...]], NDArray[np.float32]] = OrderedDict()
        if path is not None:
            with contextlib.suppress(UserError):
                remembered = read_record(path, _Remembered, "delete it")
                if remembered.sha256 == digest(remembered.known, length=64):
                    self.known = remembered.known

    def difference(self, metric: str, side: Side, baseline: Side, seeds: Sequence[int]) -> ImageChance:
        """What resampling the images says of a mean difference.

        Args:
            metric: One of `METRICS`.
            side: What is compared.
            baseline: What it is compared with.
            seeds: Seeds that both have.
        """
        sides = []
        for one in (side, baseline):
            known = [self._content(one.files[seed], one.stored.get(seed)) for seed in seeds]
            contents = tuple(content for content in known if content is not None)
            if len(contents) < len(known):
                return no_images("no counts per image")
            sides.append((contents, [one.files[seed] for seed in seeds]))
        try:
            following = blocks.following(self._names_of(*sides[0]), side.placing)
        except UserError as error:
            return no_images(str(error))
        key = digest([_VERSION, metric, intervals.RESAMPLES, [c for c, _ in sides], following], length=24)
        if key not in self.known:
            self.known[key] = self._compute(metric, sides, following)
            self.changed = True
        *values, images, block, note = self.known[key]
        level = ImageLevel(*(float("nan") if value is None else value for value in values))
        return ImageChance(level, images, block, note)

    def _compute(
        self, metric: str, sides: list[tuple[tuple[str, ...], list[Path]]], following: tuple[int, ...]
    ) -> list[Any]:
        """The values of an `ImageLevel`, None for NaN, and the rest of an `ImageChance`."""
        try:
            if len({self._images(*side) for side in sides}) > 1:
                raise UserError("different images")
            chosen = blocks.independent(len(following))
            if max(following, default=-1) >= 0:
                own, others = (self._contributions(metric, *side) for side in sides)
                chosen = blocks.blocks_for(own - others, following)
            one, other = (self._means(metric, *side, chosen) for side in sides)
        except UserError as error:
            return [*[None] * 4, 0, 1.0, str(error)]
        level = intervals.resampled_difference(one, other, chosen)
        values = [None if np.isnan(value) else value for value in level]
        return [*values, len(following), chosen.length, ""]

    def _means(
        self, metric: str, contents: tuple[str, ...], paths: list[Path], chosen: Blocks
    ) -> NDArray[np.float32]:
        """A resampled score of a side, `[resamples]`."""
        return _kept(
            self._resampled,
            (metric, chosen, contents),
            _RESAMPLES_KEPT,
            lambda: self._side(contents, paths).resampled(metric, chosen),
        )

    def _contributions(
        self, metric: str, contents: tuple[str, ...], paths: list[Path]
    ) -> NDArray[np.float64]:
        """What each image adds to a score of a side, `[N]`."""
        key = metric, contents
        if key not in self._added:
            self._added[key] = self._side(contents, paths).contributions(metric)
        return self._added[key]

    def _side(self, contents: tuple[str, ...], paths: list[Path]) -> SideCounts:
        """The counts of a side."""
        side = _kept(
            self._counts, contents, _COUNTS_KEPT, lambda: SideCounts.of([*map(self._seed, contents, paths)])
        )
        self._sides_names[contents] = side.names
        return side

    def _seed(self, content: str, path: Path) -> ComparedCounts:
        """The counts in the file of one seed; those that gave scores are possible ones."""
        if content in self._counted:
            return self._counted[content]
        stored = self._stored.get(content)
        return SplitCounts.read_compared(path, stored) if stored else SplitCounts.read(path).compared

    def _images(self, contents: tuple[str, ...], paths: list[Path]) -> tuple[str, ...]:
        """The images of a side, which all of its files have."""
        if contents not in self._sides_names:
            self._side(contents, paths)
        return self._sides_names[contents]

    def _names_of(self, contents: tuple[str, ...], paths: list[Path]) -> tuple[str, ...]:
        """The images of a side, by the first of its files."""
        if contents[0] not in self._names:
            self._names[contents[0]] = SplitCounts.read_names(paths[0])
        return self._names[contents[0]]

    def _content(self, path: Path, stored: StoredFile | None) -> str | None:
        """The SHA-256 of what is in a file, None without it.

        Args:
            path: The file.
            stored: What is known of it: then it is compared with that when it is read.
        """
        if stored is not None:
            self._stored[stored.sha256] = stored
            return stored.sha256
        if path not in self._contents:
            try:
                self._contents[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:
                self._contents[path] = None
        return self._contents[path]

    def save(self) -> None:
        """Remembers what was computed."""
        if self.path is not None and self.changed:
            write_record(self.path, _Remembered(digest(self.known, length=64), self.known))
            self.changed = False


def _kept(store: OrderedDict[Key, Value], key: Key, most: int, compute: Callable[[], Value]) -> Value:
    """What is stored under a key, computed once as long as there are not too many."""
    if key not in store:
        store[key] = compute()
        if len(store) > most:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]
