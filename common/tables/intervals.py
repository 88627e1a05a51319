"""What numbers over seeds and images can say: intervals, comparisons, and when to say nothing.

A score has two sources of chance: the seed, which is new in each run, and the images, which all runs share.
The difference D of two methods, the mean over S seeds of differences within a seed, has an interval that
covers both ("two-level"): D ± √(t²·v/S + u²·b), where v is the variance of the difference over seeds, b the
variance of D over resamples of the N images, and t and u are the quantiles of Student's t for S − 1 and N −
1 degrees of freedom. Of frames of a video N is how many independent images they are worth, which
`tables/blocks.py` tells from the data. The interval covers at least as often as it says, whatever the shares
of the two sources are (Banerjee, Sankhyā 22, 1960), while Satterthwaite's is too short for few seeds. What
seeds and images do together is in both parts, which errs on the safe side. One seed gives no v, and so no
such interval.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # and not stats, which takes most of a second to import

from common.tables import blocks as resampling
from common.tables.blocks import Blocks

if TYPE_CHECKING:
    import torch

CONFIDENCE = 0.95
"""Of intervals; tests are at the level 1 − CONFIDENCE."""

RESAMPLES = 10_000
"""How often the images are resampled."""

POWER = 0.8
"""The probability with which a detectable difference would be shown."""

BETTER, WORSE, UNDECIDED = "better", "worse", "no difference shown"
ONE_SEED = "one seed"
"""What `reading` says."""

_CHUNK = 2_000  # with another one the sums over classes have another order
_ROWS = 100  # so much at a time stays in a cache
_EXACT_FLOAT32 = 2**24


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n − 1); NaN where there are too few values."""
    count = len(values)  # a few numbers, many times: NumPy would take ten times as long
    mean = math.fsum(values) / count if count else math.nan
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (count - 1)) if count > 1 else math.nan


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """The differences to the baseline for the seeds that both have, in the order of the seeds.

    Runs of one seed share initial network, data order and augmentation, so the difference within a
    seed is less noisy than the difference of two means.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; NaN for fewer than two values."""
    mean, deviation = mean_and_deviation(values)
    if len(values) < 2:
        return float("nan"), float("nan")
    margin = _quantile_of(len(values) - 1) * deviation / len(values) ** 0.5
    return mean - margin, mean + margin


def paired_t(differences: Sequence[float]) -> float:
    """The two-sided p of the paired t test over seeds; NaN for fewer than two differences."""
    mean, deviation = mean_and_deviation(differences)
    if len(differences) < 2:
        return float("nan")
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(mean) / deviation * len(differences) ** 0.5))


def resampled_mean_iou(
    intersection: NDArray[np.integer],
    union: NDArray[np.integer],
    resamples: int = RESAMPLES,
    blocks: Blocks | None = None,
) -> NDArray[np.float32]:
    """The mean IoU of resamples of the images, drawn with replacement, as many as there are.

    The resamples are the same for all runs on as many images, so differences of two results are paired.
    Sums of counts are exact, so that it does not matter in which order a machine adds.

    Args:
        intersection: Of each image and class, `[…, N, K]`.
        union: Of each image and class, `[…, N, K]`.
        resamples: How many.
        blocks: How the images are drawn; by default one by one.

    Returns:
        `[…, resamples]` in 0..1; NaN where no class occurs in a resample.
    """
    import torch  # tables that were made before need none

    images, classes = union.shape[-2:]
    exact = int(union.max(initial=0)) * images < _EXACT_FLOAT32
    kind = torch.float32 if exact else torch.float64
    few = max(1, _ROWS // classes)
    with _by_threads(math.ceil(math.prod(union.shape[:-2]) / few)) as mapped:
        weights = resampling.weights(blocks or resampling.independent(images), resamples, kind)
        rows = (
            torch.from_numpy(np.ascontiguousarray(counts.swapaxes(-1, -2))).to(kind).view(-1, images)
            for counts in (intersection, union)
        )
        parts = [counts.split(few * classes) for counts in rows]
        means = torch.cat([*mapped(lambda above, below: _resampled(above, below, classes, weights), *parts)])
    return means.numpy().reshape(*union.shape[:-2], resamples)


def _resampled(above: torch.Tensor, below: torch.Tensor, classes: int, weights: torch.Tensor) -> torch.Tensor:
    """The mean IoU of resamples of some results.

    Args:
        above: The intersections, `[results · K, N]`.
        below: The unions, `[results · K, N]`.
        classes: K.
        weights: How often each resample has each of the images, `[N, resamples]`.

    Returns:
        float32 `[results, resamples]`.
    """
    import torch

    result = torch.empty(len(below) // classes, weights.shape[1])
    rooms = [below.new_empty(len(below) * _CHUNK) for _ in range(2)]  # of which all chunks make use
    for chunk, place in zip(weights.split(_CHUNK, dim=1), result.split(_CHUNK, dim=1)):
        size = len(below), chunk.shape[1]
        hits, unions = (
            torch.mm(counts, chunk, out=room[: math.prod(size)].view(size)).view(-1, classes, size[1])
            for counts, room in zip((above, below), rooms)
        )
        if unions.numpy().min(initial=1):
            hits.div_(unions)
            occurring: torch.Tensor | int = classes
        else:  # of classes that do not occur nothing is hit
            hits.div_(unions.clamp(min=1))
            occurring = unions.clamp_(max=1).sum(dim=1)
        place.copy_(hits.sum(dim=1).div_(occurring))
    return result


@contextlib.contextmanager
def _by_threads(most: int) -> Iterator[Callable[..., Iterable[torch.Tensor]]]:
    """A `map` by as many threads as PyTorch has, which then works by one in each: that waits for nobody.

    Args:
        most: There are not more than so many.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if min(threads, most) <= 1:
            yield map
            return
        with ThreadPoolExecutor(min(threads, most)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


class ImageLevel(NamedTuple):
    """What the bootstrap over images says of a difference, in the unit of its input.

    Attributes:
        variance: Of the difference, over resamples.
        low: The lower end of the 95 % percentile interval.
        high: Its upper end.
        p: Twice the share of resamples on the other side of zero.
    """

    variance: float
    low: float
    high: float
    p: float


def resampled_difference(
    values: NDArray[np.floating], baseline: NDArray[np.floating], blocks: Blocks | None = None
) -> ImageLevel:
    """The bootstrap over images of a difference of two means over seeds.

    Each resample has the same images for all seeds, which are strata: every seed keeps its weight. Resamples
    in blocks spread too little, like few independent images: their deviations are stretched by what the
    quantile of Student's t and the variance of so few would be larger by.

    Args:
        values: The mean over seeds of each resample, `[resamples]`.
        baseline: That of what it is compared with, `[resamples]`.
        blocks: How the images were drawn; by default one by one.
    """
    difference = values.astype(float) - baseline
    difference = np.sort(difference[~np.isnan(difference)])
    count = len(difference)
    if not count:
        return ImageLevel(*[float("nan")] * 4)
    variance = difference.var(ddof=1)
    if blocks is not None and blocks.length > 1:
        worth = blocks.independent
        stretch = _quantile(1 - CONFIDENCE, worth - 1) / _quantile(1 - CONFIDENCE, np.inf)
        middle = difference.mean()
        difference = middle + (difference - middle) * stretch * math.sqrt(worth / (worth - 1))
    shares = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.interp(shares * (count - 1), np.arange(count), difference)
    tail = min(np.searchsorted(difference, 0, "right"), count - np.searchsorted(difference, 0, "left"))
    p = min(1.0, 2 * (tail + 1) / (count + 1))
    return ImageLevel(float(variance), float(low), float(high), float(p))


class TwoLevel(NamedTuple):
    """Two-level intervals and tests; every attribute has one value per comparison, NaN for one seed or image.

    Attributes:
        low: The lower end of the 95 % interval.
        high: Its upper end.
        p: Two-sided.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p: NDArray[np.float64]


def margin(
    level: float, seed_variance: ArrayLike, seeds: ArrayLike, image_variance: ArrayLike, images: ArrayLike
) -> NDArray[np.float64]:
    """Half the width of the two-level interval of confidence 1 − `level`; else as in `two_level`."""
    _, *parts = _parts(0.0, seed_variance, seeds, image_variance, images)
    return _margin(level, *parts)


def two_level(
    mean: ArrayLike, seed_variance: ArrayLike, seeds: ArrayLike, image_variance: ArrayLike, images: ArrayLike
) -> TwoLevel:
    """Intervals and tests of differences over seeds and images. Arguments are broadcast.

    Args:
        mean: The mean difference over seeds.
        seed_variance: Variance of the difference over seeds (with S − 1).
        seeds: S.
        image_variance: Variance of `mean` over resamples of the images.
        images: N, or how many independent images they are worth.
    """
    mean, by_seeds, seeds, by_images, images = _parts(mean, seed_variance, seeds, image_variance, images)
    margin = _margin(1 - CONFIDENCE, by_seeds, seeds, by_images, images)
    low, high = np.full(mean.shape, -40.0), np.zeros(mean.shape)  # of the logarithm of p
    for _ in range(50):
        middle = (low + high) / 2
        wider = _margin(np.exp(middle), by_seeds, seeds, by_images, images) > np.abs(mean)
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    p = np.where(mean == 0, 1.0, np.exp(high))
    return TwoLevel(mean - margin, mean + margin, np.where(np.isnan(margin), np.nan, p))


def detectable(
    seed_variance: ArrayLike,
    seeds: ArrayLike,
    image_variance: ArrayLike,
    images: ArrayLike,
    comparisons: ArrayLike,
) -> NDArray[np.float64]:
    """The smallest true difference that the two-level test would show with a probability of `POWER`.

    It takes the estimated variances for the true ones. The test is that of the first step of Holm's
    correction.

    Args:
        seed_variance: Variance of the difference over seeds (with S − 1).
        seeds: S.
        image_variance: Variance of the mean difference over resamples of the images.
        images: N, or how many independent images they are worth.
        comparisons: How many comparisons the table has.
    """
    _, by_seeds, seeds, by_images, images = _parts(0.0, seed_variance, seeds, image_variance, images)
    level = (1 - CONFIDENCE) / np.maximum(np.broadcast_to(comparisons, seeds.shape), 1)
    # The variance over seeds is itself an estimate: the power is a mean over what it might come out as.
    share = (np.arange(64) + 0.5) / 64
    freedom = np.maximum(seeds - 1, 1)[..., None]
    spread = by_seeds[..., None] * 2 * special.gammaincinv(freedom / 2, share) / freedom
    margin = _margin(level[..., None], spread, seeds[..., None], by_images[..., None], images[..., None])
    deviation = np.sqrt(by_seeds + by_images)
    safe = np.where(deviation > 0, deviation, 1.0)
    low, high = np.zeros(deviation.shape), margin.max(axis=-1) + 10 * deviation
    for _ in range(50):
        middle = (low + high) / 2
        power = special.ndtr((middle[..., None] - margin) / safe[..., None]).mean(axis=-1)
        low, high = np.where(power < POWER, middle, low), np.where(power < POWER, high, middle)
    return np.where(deviation > 0, high, 0.0 * deviation)


def _parts(
    mean: ArrayLike, seed_variance: ArrayLike, seeds: ArrayLike, image_variance: ArrayLike, images: ArrayLike
) -> tuple[NDArray[np.float64], ...]:
    """The mean, and squared standard errors over seeds and images, with S and N; NaN if one of these is 1."""
    arrays = np.broadcast_arrays(
        *(np.asarray(x, float) for x in (mean, seed_variance, seeds, image_variance, images))
    )
    mean, seed_variance, seeds, image_variance, images = arrays
    enough = (seeds > 1) & (images > 1)
    by_seeds = np.where(enough, seed_variance / np.maximum(seeds, 1), np.nan)
    # Resampling N images gives (N − 1)/N of the variance.
    by_images = np.where(enough, image_variance * images / np.maximum(images - 1, 1), np.nan)
    return mean, by_seeds, seeds, by_images, images


def _margin(
    level: ArrayLike, by_seeds: NDArray, seeds: NDArray, by_images: NDArray, images: NDArray
) -> NDArray[np.float64]:
    """Half the width of the interval of confidence 1 − `level`, from what `_parts` gives."""
    over_seeds, over_images = (_quantile(level, np.maximum(n - 1, 1)) for n in (seeds, images))
    return np.sqrt(over_seeds**2 * by_seeds + over_images**2 * by_images)


def _quantile(level: ArrayLike, freedom: ArrayLike) -> NDArray[np.float64]:
    """How many standard errors a two-sided interval of confidence 1 − level reaches to either side."""
    # As stats.t.isf, which takes most of its time to look at its arguments.
    return -special.stdtrit(freedom, np.asarray(level) / 2)


@lru_cache(maxsize=1024)
def _quantile_of(freedom: int) -> float:
    """`_quantile` of the usual confidence for one number of degrees of freedom, which is often asked for."""
    return float(_quantile(1 - CONFIDENCE, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjustment of the p values of a table; NaN stays NaN and does not count."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(np.asarray(p, float)))
    order = known[np.argsort(np.asarray(p, float)[known], kind="stable")]
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, p[index] * (len(order) - place)))
        adjusted[index] = largest
    return adjusted.tolist()


def reading(difference: float, p: float, seeds: int) -> str:
    """What a comparison says in plain words, given its adjusted two-level p; empty if there is nothing."""
    if seeds == 1:
        return ONE_SEED
    if np.isnan(p):
        return ""
    if p > 1 - CONFIDENCE:
        return UNDECIDED
    return BETTER if difference > 0 else WORSE
