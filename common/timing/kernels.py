"""Times of the kernels, side by side with what they replace.

The family `chain` is the dual decomposition of methods/ddcrf.py, as kernels (with pairwise scores per edge,
and factored) and in plain PyTorch, against a loop over single steps. The family `rmi` is the loss of
methods/rmi.py against a direct implementation. Both baselines are in the style of the published codes. The
family `densecrf` is the dense CRF of methods/densecrf.py against `pydensecrf`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from common.timing import scenes
from common.timing.cases import Bench, Case, Family, Timing
from common.timing.clock import timed
from common.timing.passes import Function, Version, cost, floors, seconds_of_passes
from common.timing.published_algorithms import direct_rmi, per_step_loop
from common.timing.scenes import Size
from methods.ddcrf import dual_decomposition, dual_decomposition_factored, dual_decomposition_reference
from methods.densecrf import dense_crf
from methods.rmi import RMILoss

CHAIN_SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((2, 21, 33, 33), (8, 21, 33, 33), (8, 11, 30, 30), (1, 19, 65, 129)),
    "cuda": ((2, 21, 33, 33), (8, 21, 33, 33), (16, 21, 33, 33), (1, 21, 65, 129), (16, 11, 90, 120)),
}
"""N, K, h, w: VOC at training size, CamVid, Cityscapes."""

RMI_SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((2, 21, 513, 513), (8, 11, 240, 240)),
    "cuda": ((2, 21, 513, 513), (16, 21, 513, 513), (16, 11, 360, 480)),
}
"""N, K, H, W: VOC, and CamVid, on a CPU as workflow/presets/camvid_cpu.yaml crops it."""

DENSECRF_SIZES: Mapping[str, Sequence[Size]] = {
    "cpu": ((4, 11, 360, 480), (4, 21, 375, 500)),
    "cuda": ((8, 11, 360, 480), (8, 21, 375, 500)),
}
"""Of a batch of CamVid, and of VOC."""

GAPS = (1, 2)
ITERATIONS = 5
GAMMA = 2.0

UPDATES = 10
"""Of the dense CRF: `dense_crf`'s default, as published."""

COMPARED_IMAGES = 2
"""So many images of a batch have their labels compared with those of `pydensecrf`."""


def chain(bench: Bench, sizes: Sequence[Size] | None = None) -> Iterator[Case]:
    """The versions of the dual decomposition, gaps 1 and 2, 5 iterations, float32, γ = 2.

    The bytes that any version must move are those of scores in and logits out, then of scores and the
    logits' derivative in and those of the scores out. The floor of latency is as many dependent steps as a
    version must take one after the other, in the measured time of one.
    """
    for size in CHAIN_SIZES[bench.device.type] if sizes is None else sizes:
        edges = cache(partial(_edge_scores, size, bench.device))
        maps = cache(partial(_score_maps, size, bench.device))
        latency = cache(partial(_latency, size, bench.device))
        for name, function, inputs, baseline in (
            ("kernels", _per_edge(dual_decomposition), edges, False),
            ("kernels, factored", _factored, maps, False),
            ("plain PyTorch", _per_edge(dual_decomposition_reference), edges, True),
            ("loop over steps", _per_edge(per_step_loop), edges, True),
        ):
            measure = partial(_chain_row, function, inputs, latency, bench)
            yield Case(_place(size), name, measure, baseline, name == "loop over steps")


def _chain_row(
    function: Function, inputs: Callable[[], list[Tensor]], latency: Callable[[], float], bench: Bench
) -> Timing:
    row = cost(Version(function, inputs()), bench)
    moved = 4 * (3 * sum(x.numel() for x in inputs()) + 2 * inputs()[0].numel())
    return row | floors(row["forward_ms"] + row["backward_ms"], moved, bench.copy_speed, latency())


def _place(size: Size) -> dict[str, Any]:
    """The columns that say what is compared, if it is a size alone."""
    return dict(zip("NKHW", size))


def _latency(size: Size, device: torch.device) -> float:
    """Milliseconds of all steps that depend on each other, there and back: a single chain takes them, too."""
    totals = []
    for length in (128, 256):
        inputs = _score_maps((1, size[1], 1, length), device)
        totals.append(min(sum(seconds_of_passes(_factored, inputs, device)) for _ in range(8)))
    return max(0.0, 1000 * (totals[1] - totals[0]) / 128) * (max(size[2:]) - 1)


def _edge_scores(size: Size, device: torch.device) -> list[Tensor]:
    """Unary scores, and pairwise scores of every edge."""
    n, k, h, w = size
    shapes = [(n, k, h, w), *((n, k, k, h, w - g) for g in GAPS), *((n, k, k, h - g, w) for g in GAPS)]
    return scenes.normal(shapes, device)


def _score_maps(size: Size, device: torch.device) -> list[Tensor]:
    """Unary scores, and the parts of the pairwise scores that either end of an edge brings."""
    n, k, h, w = size
    return scenes.normal([(n, k, h, w), (n, k, k, h, w), (n, k, k, h, w)], device)


def _per_edge(function: Callable[..., Any]) -> Function:
    """The logits of a dual decomposition with the scores of `_edge_scores`."""

    def logits(unary: Tensor, *scores: Tensor) -> Tensor:
        """The logits alone, of whatever the function returns."""
        count = len(GAPS)
        result = function(unary, scores[:count], scores[count:], iterations=ITERATIONS, gamma=GAMMA)
        return result if isinstance(result, Tensor) else result.logits

    return logits


def _factored(unary: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The logits of the dual decomposition with the scores of `_score_maps`."""
    return dual_decomposition_factored(unary, left, right, GAPS, iterations=ITERATIONS, gamma=GAMMA).logits


def rmi(bench: Bench, sizes: Sequence[Size] | None = None) -> Iterator[Case]:
    """The versions of the RMI loss, radius 3, average pool 4, float32 logits, a tenth void.

    The bytes that any version must move are those of logits in, twice, and their derivative out.
    """
    for size in RMI_SIZES[bench.device.type] if sizes is None else sizes:
        inputs = cache(partial(_segmentation, size, bench.device))
        for name, loss in (
            ("ours", RMILoss(size[1])),
            ("direct", direct_rmi),
            ("direct, all in float64", lambda logits, labels: direct_rmi(logits.double(), labels)),
        ):
            baseline = name != "ours"
            measure = partial(_loss_row, loss, inputs, bench)
            yield Case(_place(size), name, measure, baseline, name == "direct")


def _loss_row(loss: Function, inputs: Callable[[], tuple[Tensor, Tensor]], bench: Bench) -> Timing:
    logits, labels = inputs()
    row = cost(Version(lambda x: loss(x, labels), [logits]), bench)
    moved = 3 * logits.numel() * logits.element_size()
    return row | floors(row["forward_ms"] + row["backward_ms"], moved, bench.copy_speed)


def _segmentation(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits with a gradient, and labels."""
    return scenes.normal([size], device)[0], scenes.label_maps(size, device)


class Engine(NamedTuple):
    """One way of refining a batch by the dense CRF.

    Attributes:
        name: The engine's, as `dense_crf` knows it.
        device: Where it computes.
        single: Whether it takes image by image, on a CPU with one thread.
    """

    name: Literal["torch", "pydensecrf"]
    device: torch.device
    single: bool

    @property
    def threads(self) -> int:
        """With how many threads of the CPU it computes, or feeds the GPU."""
        return 1 if self.single and self.device.type == "cpu" else torch.get_num_threads()

    def description(self) -> str:
        """What tables call it."""
        where = "GPU" if self.device.type == "cuda" else f"{self.threads} CPU threads"
        return f"{self.name}, {'single images' if self.single else 'a batch'}, {where}"


def densecrf(bench: Bench, sizes: Sequence[Size] | None = None) -> Iterator[Case]:
    """The engines of the dense CRF, 10 updates with the paper's kernels, image by image and in a batch.

    A row has the median time per image, images per second, and the share of pixels of the first images whose
    label is that of `pydensecrf`. The bytes that any version
    must move are those of the probabilities in and out at every update: each pixel depends on all others of
    the update before.
    """
    cpu = torch.device("cpu")
    engines = [Engine("torch", bench.device, single) for single in (False, True)]
    if bench.device.type == "cuda":
        engines.append(Engine("torch", cpu, True))
    engines += [Engine("pydensecrf", cpu, single) for single in (False, True)]
    for size in DENSECRF_SIZES[bench.device.type] if sizes is None else sizes:
        truth = cache(partial(_reference_labels, size))
        for engine in engines:
            reference = engine == engines[-1]
            baseline = engine.name != "torch" or engine.device != bench.device
            measure = partial(_refinement, size, engine, bench, truth)
            yield Case(_place(size), engine.description(), measure, baseline, reference)


def _refinement(size: Size, engine: Engine, bench: Bench, truth: Callable[[], Tensor]) -> Timing:
    """What an engine takes per image, and how many of its labels are those of the reference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(engine.threads)
    try:
        result, times = _refined(_batch(size, engine.device), engine, bench.effort.passes)
    finally:
        torch.set_num_threads(threads)
    milliseconds = 1000 * statistics.median(times) / (1 if engine.single else size[0])
    row = {"image_ms": milliseconds, "images_per_s": 1000 / milliseconds, "repeats": len(times)}
    if engine.device == bench.device:
        moved = 2 * UPDATES * 4 * size[1] * size[2] * size[3]
        row |= floors(milliseconds, moved, bench.copy_speed)
    expected = truth()
    agreement = (result.argmax(1).cpu()[: len(expected)] == expected).double().mean()
    return row | {"agreement": float(agreement)}


def _batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and probabilities."""
    return scenes.images(size, device), scenes.probabilities(size, device)


def _reference_labels(size: Size) -> Tensor:
    """What `pydensecrf` makes of the first images."""
    images, probabilities = (x[:COMPARED_IMAGES] for x in _batch(size, torch.device("cpu")))
    return dense_crf(images, probabilities, engine="pydensecrf").argmax(1)


def _refined(batch: tuple[Tensor, Tensor], engine: Engine, repeats: int) -> tuple[Tensor, list[float]]:
    """The refined batch, and seconds: of each image, or of the whole batch some times."""
    single = [*zip(*(x.split(1) for x in batch))]
    parts = single if engine.single else [batch] * repeats
    dense_crf(*parts[0], engine=engine.name)
    rounds = [timed(partial(dense_crf, *part, engine=engine.name), engine.device) for part in parts]
    results, times = zip(*rounds)
    return torch.cat(results) if engine.single else results[0], [*times]


FAMILIES: Mapping[str, Family] = {"chain": chain, "rmi": rmi, "densecrf": densecrf}
"""Those of single kernels, by their names; they need nothing but a device."""
