"""Images that belong together: the stationary bootstrap within sequences, and how long its blocks are.

Frames of a video resemble their neighbours, so drawing them one by one takes them for more than they are.
The stationary bootstrap (Politis & Romano, JASA 89, 1994) draws blocks of neighbours whose lengths are
geometric. Their mean length comes from the data (Politis & White, Econometric Reviews 23, 2004, with the
correction of Patton, Politis & White, 28, 2009), from what each image contributes to a difference.

That length is the best one for the error of a variance, which it underestimates: with it, intervals cover
too seldom (Sun, Phillips & Jin, Econometrica 76, 2008). So blocks are at least half as long again; and a
variance from N images in blocks of mean length b is one from N/(2b − 1) independent ones, which is what the
sum of the bootstrap's weights of neighbours says: its degrees of freedom are as many less one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Place = tuple[str, int]
"""The sequence that an image belongs to, and a number that grows along it."""

Placing = Callable[[str], Place | None]
"""The place of an image by its name, `<split>/<name>`; None if it belongs to no other."""


def alone(name: str) -> Place | None:
    """The placing of images of which nothing is known: each belongs to no other."""
    return None


LONGER = 1.5
"""How much longer than the best length for a variance blocks are at least."""

BLOCKS = 8
"""There are at least so many blocks on average."""

_STREAM = 20_211_202
"""The seed of the resamples of all tables, so that the same files give the same tables."""

_CHUNK = 500
_PLACES = 5_000_000


class Blocks(NamedTuple):
    """How images are resampled.

    Attributes:
        length: The mean length of a block, in images; 1 draws them one by one.
        following: For every image the index of the next one of its sequence, −1 at the end.
    """

    length: float
    following: tuple[int, ...]

    @property
    def independent(self) -> float:
        """How many independent images the images are worth."""
        return independent_images(len(self.following), self.length)


def independent_images(images: int, length: float) -> float:
    """How many independent images N images are worth that are drawn in blocks of a mean length."""
    return images / (2 * length - 1)


def independent(images: int) -> Blocks:
    """Images that are drawn one by one."""
    return Blocks(1.0, (-1,) * images)


def following(names: Sequence[str], placing: Placing) -> tuple[int, ...]:
    """For every image the index of the next one of its sequence, −1 at the end.

    Args:
        names: The images, `<split>/<name>`.
        placing: Where they belong.
    """
    sequences: dict[str, list[tuple[int, int]]] = {}
    for index, name in enumerate(names):
        place = placing(name)
        if place is not None:
            sequences.setdefault(place[0], []).append((place[1], index))
    result = [-1] * len(names)
    for members in sequences.values():
        order = [index for _, index in sorted(members)]
        for index, successor in itertools.pairwise(order):
            result[index] = successor
    return tuple(result)


def contributions(intersection: NDArray[np.integer], union: NDArray[np.integer]) -> NDArray[np.float64]:
    """What each image adds to the mean IoU of all, to first order (its influence); the sum is 0.

    Args:
        intersection: Of each image and class, `[…, N, K]`.
        union: Of each image and class, `[…, N, K]`.

    Returns:
        `[…, N]`.
    """
    hits, unions = (counts.sum(axis=-2, keepdims=True, dtype=float) for counts in (intersection, union))
    occurs = unions > 0
    safe = np.where(occurs, unions, 1.0)
    shares = (intersection - hits / safe * union) / safe
    return shares.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def blocks_for(values: NDArray[np.floating], following: tuple[int, ...]) -> Blocks:
    """The blocks in which images are resampled for an interval.

    Their mean length is a power of two (or, at most, an eighth of the images), so that many comparisons
    share their resamples.

    Args:
        values: What each image contributes, `[N]`.
        following: As of `following`.
    """
    best = best_length(values, following) if max(following, default=-1) >= 0 else 0.0
    if best <= 1:
        return independent(len(values))
    longest = max(1.0, len(values) / BLOCKS)
    return Blocks(min(2.0 ** math.ceil(math.log2(LONGER * best)), longest), following)


def best_length(values: NDArray[np.floating], following: tuple[int, ...]) -> float:
    """The mean length of blocks with the smallest error of the variance of a mean.

    Politis & White 2004 with the correction of 2009: (G²/g²)^⅓·N^⅓, with G = Σ|k|·R(k) and g = Σ R(k) under
    a flat-top window that ends where correlations are noise. R(k) has pairs of one sequence alone.

    Args:
        values: What each image contributes, `[N]`.
        following: As of `following`.

    Returns:
        The length, at most min(3√N, N/3); 0 where nothing varies or neighbours are uncorrelated.
    """
    count = len(values)
    run = max(5, int(math.log10(count)))  # so many small correlations in a row are the end
    lags = math.ceil(math.sqrt(count)) + run
    covariances = _autocovariances(values, following, lags)
    if covariances[0] <= 0:
        return 0.0
    small = np.abs(covariances / covariances[0]) < 2 * math.sqrt(math.log10(count) / count)
    ends = (lag for lag in range(1, lags - run + 1) if small[lag : lag + run].all())
    last = min(2 * next(ends, lags), lags)
    lag = np.arange(1, last + 1)
    weighted = 2 * np.minimum(1, 2 * (1 - lag / last)) * covariances[1 : last + 1]
    slope, level = (weighted * lag).sum(), covariances[0] + weighted.sum()
    most = math.ceil(min(3 * math.sqrt(count), count / 3))
    return most if level == 0 else min(float(((slope / level) ** 2 * count) ** (1 / 3)), most)


def _autocovariances(
    values: NDArray[np.floating], following: tuple[int, ...], lags: int
) -> NDArray[np.float64]:
    """R(0) to R(lags), over N."""
    deviations = np.asarray(values, float) - np.mean(values)
    # The last place is nowhere: it has no value, and nothing but itself follows.
    successor = np.append(following, -1)
    padded = np.append(deviations, 0.0)
    ahead = np.arange(len(values))
    covariances = []
    for _ in range(lags + 1):
        covariances.append(deviations @ padded[ahead] / len(values))
        ahead = successor[ahead]
    return np.array(covariances)


def weights(blocks: Blocks, resamples: int, kind: torch.dtype) -> torch.Tensor:
    """How often each resample has each of the images, `[N, resamples]`."""
    return _weights(blocks, resamples).to(kind)


@lru_cache(maxsize=6)
def _weights(blocks: Blocks, resamples: int) -> torch.Tensor:
    """As `weights`, in 16 bits: those of many images are kept, too."""
    import torch  # tables that were made before need none

    images = len(blocks.following)
    random = np.random.Generator(np.random.PCG64([_STREAM, images]))
    result = torch.empty(images, resamples, dtype=torch.int16)
    chunk = _CHUNK if blocks.length == 1 else max(_CHUNK, _PLACES // images)
    for first in range(0, resamples, chunk):
        count = min(chunk, resamples - first)
        drawn = (
            _one_by_one(random, images, count) if blocks.length == 1 else _in_blocks(random, blocks, count)
        )
        places = drawn + images * np.arange(count)[:, None]
        counted = np.bincount(places.ravel(), minlength=drawn.size)
        result[:, first : first + count] = torch.from_numpy(counted.reshape(drawn.shape)).T
    return result


def _one_by_one(random: np.random.Generator, images: int, count: int) -> NDArray[np.int64]:
    """Images of `count` resamples of the ordinary bootstrap, `[count, N]`."""
    return random.integers(images, size=(count, images))


def _in_blocks(random: np.random.Generator, blocks: Blocks, count: int) -> NDArray[np.int64]:
    """Images of `count` resamples of the stationary bootstrap, `[count, N]`.

    A block ends by chance or with its sequence. The first image of a sequence follows none, so that it
    starts a block the more often: thus all images are drawn equally often.
    """
    following, end = np.array(blocks.following), 1 / blocks.length
    starts = np.ones(len(following))
    starts[following[following >= 0]] = end
    shares = np.cumsum(starts) / starts.sum()
    drawn = np.empty((len(following), count), np.int64)
    drawn[0] = random.integers(len(following), size=count)
    for place in range(1, len(following)):
        image = following[drawn[place - 1]]
        new = (image < 0) | (random.random(count) < end)
        image[new] = np.searchsorted(shares, random.random(np.count_nonzero(new)), side="right")
        drawn[place] = np.minimum(image, len(following) - 1)
    return drawn.T
