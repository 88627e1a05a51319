"""Intervals and readings: against definitions, and in a simulation in which the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal, stats

from common.scoring import metrics
from common.tables import intervals

CLASSES, PIXELS, IMAGES, SEEDS = 5, 2000, 60, 5


@dataclass
class World:
    """Where scores come from: per-image confusion counts with effects of method, seed and image.

    The share of a class that is found is a logistic function of normal effects: of the image, common to both
    methods; of the image for a method; of a method's run; and of a run's image.

    Attributes:
        gain: What the method adds to the baseline's logit.
        seed: Deviation of the effect of a run.
        image: Deviation of the effect of an image on a method.
        run: Deviation of the effect of an image on a run.
        correlation: Of the effects of neighbouring images, which are frames of a video (AR(1)).
    """

    gain: float = 0.0
    seed: float = 0.1
    image: float = 0.4
    run: float = 0.2
    correlation: float = 0.0

    def draw(self, random: np.random.Generator, images: int = IMAGES, seeds: int = SEEDS) -> NDArray:
        """Confusion counts `[2, seeds, images, K, K]` of method and baseline on the same images."""
        share = random.dirichlet(np.full(CLASSES, 1.0), images)
        truth = random.multinomial(PIXELS, share)
        common = self.frames(random.normal(0, 0.8, (images, 1)))
        own = self.frames(random.normal(0, self.image, (2, 1, images, 1)))
        run = random.normal(0, self.seed, (2, seeds, 1, 1))
        both = self.frames(random.normal(0, self.run, (2, seeds, images, 1)))
        gain = np.array([self.gain, 0.0]).reshape(2, 1, 1, 1)
        logit = np.linspace(0.5, 2.5, CLASSES) + common + own + run + both + gain
        hits = random.binomial(truth, 1 / (1 + np.exp(-logit)))
        counts = np.zeros((*hits.shape, CLASSES), np.int64)
        near = random.binomial(truth - hits, 0.7)
        for k in range(CLASSES):
            counts[..., k, k] = hits[..., k]
            counts[..., k, (k + 1) % CLASSES] = near[..., k]
            counts[..., k, (k + 2) % CLASSES] = (truth - hits - near)[..., k]
        return counts

    def frames(self, effects: NDArray) -> NDArray:
        """Independent effects of images `[…, images, 1]`, made to resemble those of the images before."""
        scaled = effects * math.sqrt(1 - self.correlation**2)
        scaled[..., :1, :] = effects[..., :1, :]
        return signal.lfilter([1], [1, -self.correlation], scaled, axis=-2)

    def truth(self, random: np.random.Generator) -> float:
        """The difference that tests of `IMAGES` images show, on average over images and seeds."""
        differences = []
        for _ in range(1500):
            miou = means(self.draw(random, seeds=2))
            differences.append((miou[0] - miou[1]).mean())
        return float(np.mean(differences))


def parts(counts: NDArray) -> tuple[NDArray, NDArray]:
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return hits, counts.sum(axis=-1) + counts.sum(axis=-2) - hits


def means(counts: NDArray) -> NDArray:
    """mIoU `[2, seeds]` of counts `[2, seeds, images, K, K]`."""
    return metrics.iou(counts.sum(axis=2)).mean(axis=-1)


@dataclass
class Outcome:
    """Shares of repetitions, one for each number of seeds from 1 on; NaN where nothing is said."""

    covered: list[float]
    images_covered: list[float]
    seeds_covered: list[float]
    better: list[float]
    worse: list[float]


def simulate(world: World, repetitions: int, resamples: int, seed: int) -> Outcome:
    """How often intervals cover the truth, and what the readings are, for 1 to `SEEDS` seeds."""
    random = np.random.default_rng(seed)
    truth = world.truth(random) if world.gain else 0.0
    differences = np.empty((repetitions, SEEDS))
    bootstrap = np.empty((repetitions, SEEDS, 4))
    for repetition in range(repetitions):
        counts = world.draw(random)
        differences[repetition] = np.subtract(*means(counts))
        replicates = intervals.resampled_mean_iou(*parts(counts), resamples)
        for seeds in range(1, SEEDS + 1):
            bootstrap[repetition, seeds - 1] = intervals.resampled_difference(
                *replicates[:, :seeds].mean(axis=1)
            )
    outcome = Outcome([], [], [], [], [])
    for seeds in range(1, SEEDS + 1):
        some, (variance, low, high, _) = differences[:, :seeds], bootstrap[:, seeds - 1].T
        spread = some.var(axis=1, ddof=1) if seeds > 1 else np.full(repetitions, np.nan)
        both = intervals.two_level(some.mean(axis=1), spread, seeds, variance, IMAGES)
        outcome.covered.append(share_inside(truth, both.low, both.high))
        outcome.images_covered.append(share_inside(truth, low, high))
        outcome.seeds_covered.append(
            share_inside(truth, *np.array([intervals.interval_over_seeds(x) for x in some]).T)
        )
        readings = [intervals.reading(mean, p, seeds) for mean, p in zip(some.mean(axis=1), both.p)]
        outcome.better.append(readings.count("better") / repetitions)
        outcome.worse.append(readings.count("worse") / repetitions)
    return outcome


def share_inside(truth: float, low: NDArray, high: NDArray) -> float:
    return math.nan if np.isnan(low).all() else float(((low <= truth) & (truth <= high)).mean())


def two_errors(share: float, repetitions: int) -> float:
    """Two Monte-Carlo errors of a share."""
    return 2 * math.sqrt(share * (1 - share) / repetitions)


def check_no_difference(world: World, repetitions: int, resamples: int, seed: int) -> Outcome:
    outcome = simulate(world, repetitions, resamples, seed)
    assert outcome.better[0] == outcome.worse[0] == 0, "one seed says nothing"
    assert math.isnan(outcome.covered[0])
    for share in (*outcome.better, *outcome.worse):
        assert share <= 0.05 + two_errors(0.05, repetitions)
    for share in outcome.covered[1:]:
        assert share >= 0.95 - two_errors(0.95, repetitions)
    return outcome


def test_no_difference_is_rarely_read_as_better() -> None:
    check_no_difference(World(), 2000, 200, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed_effect", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("image_effect", [0.1, 0.4])
def test_false_positives_and_coverage_under_no_difference(seed_effect: float, image_effect: float) -> None:
    world = World(seed=seed_effect, image=image_effect)
    outcome = check_no_difference(world, 2000, 1000, seed=2)
    print(f"\nseed {seed_effect}, image {image_effect}: {outcome}")


@pytest.mark.long
def test_coverage_of_a_true_difference() -> None:
    outcome = simulate(World(gain=0.15), 2000, 1000, seed=3)
    print(f"\ngain 0.15: {outcome}")
    for share in outcome.covered[1:]:
        assert share >= 0.95 - two_errors(0.95, 2000)
    assert max(outcome.worse) <= 0.025
    assert outcome.better[4] > outcome.better[1]


def test_a_clear_difference_is_read_as_such() -> None:
    outcome = simulate(World(gain=0.5, seed=0.05), 40, 200, seed=4)
    assert outcome.better[2:] == [1, 1, 1] and outcome.better[0] == 0


def test_resamples_are_those_of_an_ordinary_bootstrap() -> None:
    random = np.random.default_rng(0)
    counts = World().draw(random)[0, 0]
    counts[:, 4] = 0
    counts[0, 4, 3] = 50  # a class of a single image, never found
    resampled = intervals.resampled_mean_iou(*parts(counts), 3000)
    direct = [metrics.mean_iou(counts[random.integers(0, IMAGES, IMAGES)].sum(axis=0)) for _ in range(3000)]
    assert resampled.mean() == pytest.approx(np.mean(direct), abs=4 * np.std(direct) / 3000**0.5)
    assert resampled.std() == pytest.approx(np.std(direct), rel=0.06)
    quantiles = np.linspace(0.05, 0.95, 7)
    assert np.quantile(resampled, quantiles) == pytest.approx(np.quantile(direct, quantiles), abs=0.006)


def test_resamples_are_the_same_for_all_and_exact_in_any_precision() -> None:
    counts = World().draw(np.random.default_rng(0))[0, 0]
    resampled = intervals.resampled_mean_iou(*parts(counts), 100)
    assert np.array_equal(resampled, intervals.resampled_mean_iou(*parts(counts), 100))
    large = intervals.resampled_mean_iou(*parts(2**20 * counts), 100)
    np.testing.assert_allclose(resampled, large, rtol=1e-6)
    alone = intervals.resampled_mean_iou(*parts(counts[:1]), 3)
    assert alone == pytest.approx([metrics.mean_iou(counts[0])] * 3)
    together = intervals.resampled_mean_iou(*parts(np.stack([counts, counts[::-1]])), 100)
    assert np.array_equal(together[0], resampled) and not np.array_equal(together[1], resampled)


def test_the_bootstrap_of_a_difference() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.5, 0.01, 10_000)
    shifted = intervals.resampled_difference(values, values - 0.04 + random.normal(0, 0.01, 10_000))
    assert shifted.variance == pytest.approx(0.01**2, rel=0.05)
    assert (shifted.low, shifted.high) == pytest.approx((0.04 - 0.0196, 0.04 + 0.0196), abs=7e-4)
    assert shifted.p < 0.002
    difference = random.normal(0.014, 0.01, 10_000)
    near = intervals.resampled_difference(values + difference, values)
    assert near.p == pytest.approx(2 * stats.norm.sf(1.4), rel=0.1)
    assert (near.low, near.high) == pytest.approx(np.quantile(difference, [0.025, 0.975]))
    same = intervals.resampled_difference(values, values)
    assert (same.variance, same.low, same.high, same.p) == (0, 0, 0, 1)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=8).filter(lambda x: np.std(x) > 1e-3),
)
def test_without_chance_in_the_images_it_is_the_t_test(values: list[float]) -> None:
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert intervals.interval_over_seeds(values) == pytest.approx((low, high))
    assert intervals.paired_t(values) == pytest.approx(expected.pvalue)
    both = intervals.two_level(np.mean(values), np.var(values, ddof=1), len(values), 0.0, 100)
    assert (both.low, both.high) == pytest.approx((low, high))
    assert both.p == pytest.approx(expected.pvalue, rel=1e-6)


@settings(max_examples=40)
@given(st.floats(-3, 3), st.floats(0.01, 2), st.floats(0.01, 2), st.integers(2, 6), st.integers(2, 300))
def test_the_interval_excludes_zero_where_p_says_so(
    mean: float, seed_variance: float, image_variance: float, seeds: int, images: int
) -> None:
    both = intervals.two_level(mean, seed_variance, seeds, image_variance, images)
    assert (both.p <= 0.05) == (not both.low <= 0 <= both.high) or both.p == pytest.approx(0.05)


def test_one_seed_or_one_image_has_no_two_level_interval() -> None:
    both = intervals.two_level(1.0, [np.nan, 1.0], [1, 3], 0.1, [50, 1])
    assert np.isnan([both.low, both.high, both.p]).all()
    assert all(map(math.isnan, intervals.interval_over_seeds([1.0])))
    assert math.isnan(intervals.paired_t([1.0]))
    assert intervals.reading(1.0, math.nan, 1) == "one seed"
    assert intervals.reading(1.0, math.nan, 0) == ""


@pytest.mark.parametrize(("seeds", "comparisons"), [(2, 1), (3, 1), (5, 1), (3, 4)])
def test_what_is_called_detectable_is_detected_with_the_power_stated(seeds: int, comparisons: int) -> None:
    random = np.random.default_rng(0)
    smallest = intervals.detectable(0.3, seeds, 0.2, 100, comparisons)
    values = float(smallest) + random.normal(0, 0.3**0.5, (20_000, seeds))
    values += random.normal(0, (0.2 * 100 / 99) ** 0.5, (20_000, 1))
    both = intervals.two_level(values.mean(1), values.var(1, ddof=1), seeds, 0.2, 100)
    assert (both.p <= 0.05 / comparisons).mean() == pytest.approx(0.8, abs=0.015)


def test_nothing_varies() -> None:
    both = intervals.two_level([0.0, 1.0], 0.0, 3, 0.0, 50)
    assert both.p[0] == 1 and both.p[1] < 1e-15
    assert intervals.detectable(0.0, 3, 0.0, 50, 1) == 0


def test_holm() -> None:
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([0.5, math.nan, 0.9])[0] == 1 and math.isnan(intervals.holm([math.nan])[0])
    assert intervals.holm([]) == []
    assert intervals.holm([0.02, math.nan]) == pytest.approx([0.02, math.nan], nan_ok=True)


def test_readings() -> None:
    assert intervals.reading(1.0, 0.05, 3) == "better"
    assert intervals.reading(-1.0, 0.01, 3) == "worse"
    assert intervals.reading(1.0, 0.06, 3) == "no difference shown"


def test_means_and_paired_differences() -> None:
    assert intervals.mean_and_deviation([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert intervals.mean_and_deviation([2.0])[0] == 2 and math.isnan(intervals.mean_and_deviation([2.0])[1])
    assert all(map(math.isnan, intervals.mean_and_deviation([])))
    assert intervals.paired_differences({0: 3.0, 2: 5.0}, {2: 1.0, 0: 2.0, 1: 9.0}) == [1.0, 4.0]


def test_the_interval_over_seeds() -> None:
    assert intervals.interval_over_seeds([1.0, 2.0, 4.0]) == pytest.approx(
        (7 / 3 - 3.794, 7 / 3 + 3.794), abs=1e-3
    )
