"""Images that belong together: how they are drawn, how long blocks are, and what readings are worth then."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal

from common.scoring import metrics
from common.tables import blocks, intervals
from common.tables.blocks import Blocks
from tests.common.tables.test_intervals import World, means, parts, two_errors

FRAMES = 200


def video(*lengths: int) -> tuple[int, ...]:
    """What follows each image, of videos of so many frames."""
    ends = np.cumsum(lengths)
    return tuple(-1 if place + 1 in ends else place + 1 for place in range(ends[-1]))


def autoregressive(random: np.random.Generator, correlation: float, *shape: int) -> NDArray:
    noise = random.normal(size=(*shape[:-1], shape[-1] + 100))
    return signal.lfilter([1], [1, -correlation], noise)[..., 100:]


def test_the_order_of_images_is_that_of_their_sequences() -> None:
    places = {"b/2": ("x", 7), "a/9": ("x", 30), "b/1": ("x", 5), "a/1": ("y", 1), "a/2": None}
    assert blocks.following([*places], places.get) == (1, -1, 0, -1, -1)
    assert blocks.following(["a", "b"], blocks.alone) == (-1, -1)


def test_contributions_are_the_derivatives_of_the_mean_iou() -> None:
    counts = World().draw(np.random.default_rng(0))[0, 0]
    counts[:, 4] = counts[..., 4] = 0  # a class that does not occur
    added = blocks.contributions(*parts(counts))
    assert added.sum() == pytest.approx(0, abs=1e-12)
    weights = np.ones(len(counts))
    for image in (0, 17):
        weights[image] = 1 + 1e-5
        more = metrics.mean_iou((counts * weights[:, None, None]).sum(axis=0))
        assert added[image] == pytest.approx((more - metrics.mean_iou(counts.sum(axis=0))) / 1e-5, rel=1e-3)
        weights[image] = 1


@pytest.mark.parametrize("length", [1.0, 4.0, 16.0])
def test_all_images_are_drawn_equally_often(length: float) -> None:
    weights = blocks.weights(Blocks(length, video(1, 5, 2, 40, 12)), 40_000, torch.float32)
    assert (weights.sum(dim=0) == 60).all()
    error = (2 * length - 1) ** 0.5 / 40_000**0.5
    assert weights.mean(dim=1).numpy() == pytest.approx(1, abs=4.5 * error)


def test_blocks_stay_within_a_sequence() -> None:
    """Two images are drawn together as often as a block that reaches the one goes on to the other."""
    weights = blocks.weights(Blocks(8.0, video(100, 100)), 20_000, torch.float32).numpy()
    together = np.cov(weights) + 15 / 200  # as every resample has 200 images
    within = np.mean([together[place, place + 3] for place in range(90)])
    across = np.mean([together[place, place + 3] for place in (97, 98, 99)])
    assert within == pytest.approx((1 - 1 / 8) ** 3, abs=0.03)
    assert across < 0.1


def test_the_variance_of_a_mean_is_that_of_the_formula() -> None:
    """Politis & Romano 1994, lemma 1, which has a ring where our sequence ends."""
    count, length = 120, 6.0
    values = autoregressive(np.random.default_rng(3), 0.6, count)
    deviations = values - values.mean()
    lags = np.arange(1, count)
    covariances = [deviations @ np.roll(deviations, -lag) / count for lag in range(count)]
    expected = (
        covariances[0] + 2 * ((1 - lags / count) * (1 - 1 / length) ** lags) @ covariances[1:]
    ) / count
    weights = blocks.weights(Blocks(length, video(count)), 20_000, torch.float64).numpy()
    assert np.var(values @ weights / count) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("correlation", "expected"), [(0.5, 10.3), (0.8, 27.0)])
def test_the_best_length_is_that_of_an_autoregression(correlation: float, expected: float) -> None:
    """For AR(1), G/g = 2ρ/(1 − ρ²), so the best length is (4ρ²/(1 − ρ²)²·N)^⅓."""
    count = 1000
    assert (4 * correlation**2 / (1 - correlation**2) ** 2 * count) ** (1 / 3) == pytest.approx(
        expected, rel=0.3
    )
    random = np.random.default_rng(0)
    series = autoregressive(random, correlation, 60, count)
    lengths = [blocks.best_length(values, video(count)) for values in series]
    exact = (4 * correlation**2 / (1 - correlation**2) ** 2 * count) ** (1 / 3)
    assert np.median(lengths) == pytest.approx(exact, rel=0.15)
    several = [blocks.best_length(values, video(400, 350, 250)) for values in series]
    assert np.median(several) == pytest.approx(exact, rel=0.2)


def test_the_length_of_blocks() -> None:
    random = np.random.default_rng(0)
    frames, noise = autoregressive(random, 0.9, 200), random.normal(size=200)
    alone = (-1,) * 200
    assert blocks.blocks_for(frames, alone) == blocks.independent(200)
    assert blocks.blocks_for(np.zeros(200), video(200)).length == 1
    assert blocks.blocks_for(noise, video(200)).length <= 4
    chosen = blocks.blocks_for(frames, video(200))
    assert chosen.length in (16, 25) and chosen.independent == 200 / (2 * chosen.length - 1)
    assert blocks.blocks_for(frames, video(*[1] * 200)).length == 1
    for few in (1, 2, 5, 9):
        assert blocks.blocks_for(frames[:few], video(few)).independent >= 1


def false_readings(
    world: World, repetitions: int, resamples: int, lengths: tuple[int, ...] = (FRAMES,)
) -> Iterator[tuple[int, float, float, float, float]]:
    """How often equal methods are read as different, and the half-widths of intervals in mIoU.

    Returns:
        For 3 and 5 seeds: seeds, the shares of images drawn one by one and in blocks, and their half-widths.
    """
    random = np.random.default_rng(1)
    following = video(*lengths)
    shown: dict[tuple[int, bool], list[bool]] = {}
    widths: dict[tuple[int, bool], list[float]] = {}
    for _ in range(repetitions):
        counts = np.concatenate([world.draw(random, length, 5) for length in lengths], axis=2)
        differences, added = np.subtract(*means(counts)), blocks.contributions(*parts(counts))
        for seeds in (3, 5):
            some = differences[:seeds]
            in_blocks = blocks.blocks_for(np.subtract(*added[:, :seeds].mean(axis=1)), following)
            for chosen in (blocks.independent(len(following)), in_blocks):
                hits, union = (part[:, :seeds] for part in parts(counts))
                resampled = intervals.resampled_mean_iou(hits, union, resamples, chosen).mean(axis=1)
                variance = intervals.resampled_difference(*resampled, chosen).variance
                both = intervals.two_level(some.mean(), some.var(ddof=1), seeds, variance, chosen.independent)
                key = seeds, chosen is in_blocks
                shown.setdefault(key, []).append(bool(both.p <= 0.05))
                widths.setdefault(key, []).append(50 * float(both.high - both.low))
    for seeds in (3, 5):
        keys = [(seeds, False), (seeds, True)]
        yield (
            seeds,
            *(float(np.mean(shown[key])) for key in keys),
            *(float(np.median(widths[key])) for key in keys),
        )


VIDEO = World(seed=0.02, correlation=0.8)


def test_frames_of_a_video_are_rarely_read_as_a_difference() -> None:
    for _, one_by_one, in_blocks, *_ in false_readings(VIDEO, 80, 150):
        assert one_by_one > 0.12
        assert in_blocks <= 0.06 + two_errors(0.06, 80)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "world", "lengths"),
    [
        ("frames, ρ = 0.8", VIDEO, (200,)),
        ("frames, ρ = 0.8, twice the chance of images", World(seed=0.05, image=0.8, correlation=0.8), (200,)),
        ("frames, ρ = 0.8, hardly any chance of seeds", World(seed=0, run=0.05, correlation=0.8), (200,)),
        ("frames, ρ = 0.8, of videos of 62 and 171", VIDEO, (62, 171)),
        ("frames, ρ = 0.35", World(seed=0.02, correlation=0.35), (200,)),
        ("images that do not resemble each other", World(seed=0.1), (200,)),
    ],
)
def test_the_table_of_false_readings(name: str, world: World, lengths: tuple[int, ...]) -> None:
    """Prints a row per number of seeds of the table in results/reference/intervals.md."""
    repetitions = 1000
    for seeds, one_by_one, in_blocks, *widths in false_readings(world, repetitions, 500, lengths):
        print(
            f"\n| {name} | {seeds} | {100 * one_by_one:.1f} % | {100 * in_blocks:.1f} % "
            f"| {widths[0]:.2f} | {widths[1]:.2f} |"
        )
        assert in_blocks <= 0.06 + (two_errors(0.06, repetitions) if world.run < 0.1 else 0)


def ring_variance(values: NDArray, length: float) -> float:
    """The variance of a mean in the stationary bootstrap of a single sequence (Politis & Romano, lemma 1)."""
    count = len(values)
    spectrum = np.abs(np.fft.rfft(values - values.mean(), 2 * count)) ** 2
    covariances = np.fft.irfft(spectrum)[:count] / count
    lags, stays = np.arange(1, count), 1 - 1 / length
    weights = (1 - lags / count) * stays**lags + lags / count * stays ** (count - lags)
    return (covariances[0] + 2 * weights @ covariances[1:]) / count


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "correlation", "noise", "limit"),
    [
        (200, 0, 0, 0.06),
        (200, 0.35, 0, 0.06),
        (200, 0.8, 0, 0.06),
        (200, 0.8, 1 / 0.6, 0.07),  # as much white noise
        (500, 0.8, 0, 0.06),
        (60, 0.8, 0, 0.1),
    ],
)
def test_the_table_of_images_alone(count: int, correlation: float, noise: float, limit: float) -> None:
    """Prints a row of the second table in results/reference/intervals.md."""
    repetitions, random = 4000, np.random.default_rng(0)
    series = autoregressive(random, correlation, repetitions, count)
    series += noise * random.normal(size=series.shape)
    shown = []
    for values in series:
        best = max(1.0, blocks.best_length(values, video(count)))
        used = blocks.blocks_for(values, video(count))
        cases = ((1.0, count), (best, count), (used.length, used.independent))
        variances = [(ring_variance(values, length), worth) for length, worth in cases]
        widths = [intervals.margin(0.05, 0.0, 2, variance, worth) for variance, worth in variances]
        shown.append(np.abs(values.mean()) > np.array(widths))
    shares = np.mean(shown, axis=0)
    print(
        f"\n| {count}, ρ = {correlation}, noise {noise:.2f} | "
        + " | ".join(f"{100 * x:.1f} %" for x in shares)
    )
    assert shares[2] <= limit + two_errors(limit, repetitions) and shares[2] <= shares[1]
