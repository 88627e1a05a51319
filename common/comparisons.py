"""Comparing runs: paired differences over seeds and images, from the files that the runs wrote.

What the bootstrap says of a pair of results is kept in a file under what it depends on, the content of the
files of counts; so tables of many runs are made again in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common import statistics
from common.errors import UserError
from common.files import digest, read_json, replacing
from common.statistics import ImageLevel

METRICS = ("miou", "boundary_iou")
"""The scores that are compared: means over classes of an intersection over a union, summed over images."""

_VERSION = 1
_SIDES_KEPT = 2500  # 80 KB each
_UNKNOWN = ImageLevel(*[float("nan")] * 4)

COLUMNS = (
    "metric",
    "seeds",
    "images",
    "difference",
    "difference_std",
    "images_low",
    "images_high",
    "p_images",
    "seeds_low",
    "seeds_high",
    "p_seeds",
    "low",
    "high",
    "p",
    "p_holm",
    "reading",
    "detectable",
    "note",
)
"""What `compare` says of each pair, in this order; scores are percent."""


@dataclass
class Side:
    """The results of one method, or of any other set of runs with one run per seed.

    Attributes:
        metrics: For every seed, what `metrics.json` says.
        files: For every seed, its `per_image.npz`.
    """

    metrics: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    files: dict[int, Path] = field(default_factory=dict)

    def scores(self, metric: str) -> dict[int, float]:
        """A score in 0..1 of every seed that has it."""
        found = {seed: content.get(metric) for seed, content in self.metrics.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, metric: str) -> float:
        """The mean over seeds, NaN without any."""
        return statistics.mean_and_deviation(list(self.scores(metric).values()))[0]


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
    """The bootstrap over images of differences between sides, remembered in a file."""

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
                found = read_json(path)
                self.known = found if isinstance(found, dict) else {}

    def difference(
        self, metric: str, side: Side, baseline: Side, seeds: Sequence[int]
    ) -> tuple[ImageLevel, int, str]:
        """What resampling the images says of a mean difference.

        Args:
            metric: One of `METRICS`.
            side: The one.
            baseline: The other.
            seeds: Seeds that both have.

        Returns:
            Variance and interval in 0..1, the number of images, and why it is unknown if it is.
        """
        files = [[s.files.get(seed) for seed in seeds] for s in (side, baseline)]
        contents = [[self._content(path) for path in paths] for paths in files]
        if None in (*contents[0], *contents[1]):
            return _UNKNOWN, 0, "no counts per image"
        key = digest([_VERSION, metric, statistics.RESAMPLES, *contents], length=24)
        if key not in self.known:
            self.known[key] = list(self._compute(metric, files, contents))
            self.changed = True
        *values, images, note = self.known[key]
        found = ImageLevel(*(float("nan") if value is None else value for value in values))
        return found, images, note

    def _compute(self, metric: str, files: list[list[Path]], contents: list[list[str]]) -> Iterable[Any]:
        try:
            side, baseline = (self._side(metric, *pair) for pair in zip(files, contents))
        except UserError as error:
            return (*[None] * 4, 0, str(error))
        if side.names != baseline.names:
            return (*[None] * 4, 0, "different images")
        result = statistics.resampled_difference(side.means, baseline.means)
        return (*(None if np.isnan(value) else value for value in result), side.images, "")

    def _side(self, metric: str, files: list[Path], contents: list[str]) -> Resampled:
        """Resamples of a side, computed once as long as there are not too many sides."""
        key = tuple(contents)
        if key not in self._resampled:
            self._resampled[key] = _resampled(files)
            if len(self._resampled) > _SIDES_KEPT:
                self._resampled.popitem(last=False)
        self._resampled.move_to_end(key)
        if metric not in self._resampled[key]:
            raise UserError("no counts per image")
        return self._resampled[key][metric]

    def _content(self, path: Path | None) -> str | None:
        """A digest of what is in the file, None without it."""
        if path is None:
            return None
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


def _resampled(files: Sequence[Path]) -> dict[str, Resampled]:
    """Reads the counts of all seeds of a side, and scores their resamples by each metric that all files have.

    Raises:
        UserError: A file cannot be read, or the files are of different images.
    """
    names, counts = zip(*map(_counts, files))
    if len(set(names)) > 1:
        raise UserError("different images")
    metrics = [metric for metric in METRICS if all(metric in found for found in counts)]
    if not metrics:
        return {}
    hits, union = np.moveaxis(np.stack([[found[metric] for found in counts] for metric in metrics]), 2, 0)
    means = statistics.resampled_mean_iou(hits, union).mean(axis=1, dtype=float).astype(np.float32)
    return {metric: Resampled(names[0], union.shape[2], found) for metric, found in zip(metrics, means)}


def _counts(path: Path) -> tuple[str, dict[str, NDArray]]:
    """A digest of the images' names; and for each metric intersection and union, `[2, N, K]`.

    A file that an older version wrote may lack a metric.
    """
    found = {}
    try:
        with np.load(path) as arrays:
            names = hashlib.blake2b(arrays["names"].tobytes(), digest_size=12).hexdigest()
            if "confusion" in arrays:
                confusion = arrays["confusion"]
                hits = np.diagonal(confusion, axis1=-2, axis2=-1)
                found["miou"] = np.stack([hits, confusion.sum(axis=-1) + confusion.sum(axis=-2) - hits])
            if "boundary" in arrays:
                found["boundary_iou"] = np.moveaxis(arrays["boundary"], 1, 0)
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and evaluate again") from None
    return names, found


def compare(metric: str, pairs: Sequence[tuple[Side, Side]], bootstrap: Bootstrap) -> pd.DataFrame:
    """Compares pairs of sides, which are one table: the p values are adjusted over it.

    Args:
        metric: One of `METRICS`.
        pairs: Side and baseline of every comparison.
        bootstrap: Where the chance of the images is known from.

    Returns:
        A row per pair with `COLUMNS`; NaN is what cannot be said.
    """
    found = [_differences(metric, side, baseline, bootstrap) for side, baseline in pairs]
    table = pd.DataFrame([line for line, _ in found], columns=list(COLUMNS))
    if found:
        _add_two_level(table, np.array([spread for _, spread in found]))
    return table


def _differences(
    metric: str, side: Side, baseline: Side, bootstrap: Bootstrap
) -> tuple[dict[str, Any], tuple[float, float]]:
    """What seeds and images say of one pair, each for itself, and the variances over them; all in percent."""
    scores, others = side.scores(metric), baseline.scores(metric)
    seeds = sorted(scores.keys() & others.keys())
    differences = [100 * value for value in statistics.paired_differences(scores, others)]
    mean, deviation = statistics.mean_and_deviation(differences)
    resampled, images, note = _UNKNOWN, 0, "no common seed"
    if seeds:
        resampled, images, note = bootstrap.difference(metric, side, baseline, seeds)
    low, high = statistics.interval(differences)
    line = {
        "metric": metric,
        "seeds": len(seeds),
        "images": images,
        "difference": mean,
        "difference_std": deviation,
        "images_low": 100 * resampled.low,
        "images_high": 100 * resampled.high,
        "p_images": resampled.p,
        "seeds_low": low,
        "seeds_high": high,
        "p_seeds": statistics.paired_t(differences),
        "note": note,
    }
    return line, (deviation**2, 1e4 * resampled.variance)


def _add_two_level(table: pd.DataFrame, spreads: NDArray[np.float64]) -> None:
    """Adds to the table what seeds and images say together; `spreads` are their variances, `[pairs, 2]`."""
    by_seeds, by_images = spreads.T
    seeds, images = table["seeds"].to_numpy(), table["images"].to_numpy()
    both = statistics.two_level(table["difference"].to_numpy(float), by_seeds, seeds, by_images, images)
    table["low"], table["high"], table["p"] = both
    table["p_holm"] = statistics.holm(list(both.p))
    known = np.count_nonzero(~np.isnan(both.p))
    table["detectable"] = statistics.detectable(by_seeds, seeds, by_images, images, known)
    table["reading"] = [
        statistics.reading(*line) for line in zip(table["difference"], table["p_holm"], table["seeds"])
    ]


def ranks(metric: str, sides: Sequence[Side], bootstrap: Bootstrap) -> list[float]:
    """Ranks with ties: who is not shown to be worse than the best of a rank shares it.

    A rank ends at the first that is shown to be worse than its best; the next rank counts all before. The
    level is Bonferroni's for all pairs, so that it does not matter which pairs the order made interesting.

    Returns:
        The rank of each side, from 1; NaN where nothing can be shown, as with a single seed.
    """
    result = [float("nan")] * len(sides)
    known = [place for place, side in enumerate(sides) if len(side.scores(metric)) > 1]
    order = sorted(known, key=lambda place: -sides[place].mean(metric))
    level = (1 - statistics.CONFIDENCE) / max(1, len(order) * (len(order) - 1) // 2)
    best, rank = None, 1
    for position, place in enumerate(order):
        if best is not None:
            line, spreads = _differences(metric, sides[place], sides[best], bootstrap)
            margin = statistics.margin(level, spreads[0], line["seeds"], spreads[1], line["images"])
            if np.isnan(margin):
                continue
            if line["difference"] < -margin:
                best, rank = place, position + 1
        else:
            best = place
        result[place] = rank
    return result
