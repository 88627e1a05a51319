"""Times of the kernels, side by side with what they replace.

The family `chain` is the dual decomposition of methods/ddcrf.py, as kernels (with pairwise scores per edge,
and factored) and in plain PyTorch, against a loop over single steps. The family `rmi` is the loss of
methods/rmi.py against a direct implementation. Both baselines are in the style of the published codes. The
family `densecrf` is the dense CRF of methods/densecrf.py against `pydensecrf`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from common.timing.clock import timed
from common.timing.passes import (
    REPEATS,
    Function,
    Timing,
    Version,
    compared,
    copy_speed,
    floors,
    seconds_of_passes,
)
from common.timing.published_algorithms import direct_rmi, per_step_loop
from methods.ddcrf import dual_decomposition, dual_decomposition_factored, dual_decomposition_reference
from methods.densecrf import dense_crf
from methods.rmi import RMILoss

Size = Sequence[int]
"""N, K, and height and width."""

CHAIN_SIZES = ((2, 21, 33, 33), (8, 21, 33, 33), (8, 11, 30, 30), (1, 19, 65, 129))
"""N, K, h, w: VOC at training size, CamVid, Cityscapes."""

RMI_SIZES = ((2, 21, 513, 513), (8, 11, 240, 240))
"""N, K, H, W: VOC, and CamVid as workflow/presets/camvid_cpu.yaml crops it."""

DENSECRF_SIZES = ((4, 11, 360, 480), (4, 21, 375, 500))
"""Of a batch of CamVid, and of VOC."""

GAPS = (1, 2)
ITERATIONS = 5
GAMMA = 2.0


def families(
    device: torch.device,
    chain_sizes: Sequence[Size] = CHAIN_SIZES,
    rmi_sizes: Sequence[Size] = RMI_SIZES,
    densecrf_sizes: Sequence[Size] = DENSECRF_SIZES,
) -> dict[str, pd.DataFrame]:
    """Times all families of kernels, each a table."""
    return {
        "chain": chain(device, chain_sizes),
        "rmi": rmi(device, rmi_sizes),
        "densecrf": densecrf(device, densecrf_sizes),
    }


def chain(device: torch.device, sizes: Sequence[Size] = CHAIN_SIZES) -> pd.DataFrame:
    """Times the versions of the dual decomposition, gaps 1 and 2, 5 iterations, float32, γ = 2.

    Returns:
        The rows of `compared`. The bytes that any version must move are those of scores in and logits out,
        then of scores and the logits' derivative in and those of the scores out. The floor of latency is
        as many dependent steps as a version must take one after the other, in the measured time of one.
    """
    speed = copy_speed(device)
    rows = []
    for size in sizes:
        edges, maps = _edge_scores(size, device), _score_maps(size, device)
        versions = {
            "kernels": Version(_per_edge(dual_decomposition), edges),
            "kernels, factored": Version(_factored, maps),
            "plain PyTorch": Version(_per_edge(dual_decomposition_reference), edges),
            "loop over steps": Version(_per_edge(per_step_loop), edges),
        }
        latency = ITERATIONS * (max(size[2:]) - 1) * _step_milliseconds(size[1], device)
        for row in compared(size, versions, device):
            inputs = versions[row["version"]].inputs
            moved = 4 * (3 * sum(x.numel() for x in inputs) + 2 * inputs[0].numel())
            rows.append(row | floors(row, moved, speed, latency))
    return pd.DataFrame(rows)


def _step_milliseconds(labels: int, device: torch.device) -> float:
    """One dependent step there and back: what a single chain's next cell costs."""
    totals = []
    for length in (128, 256):
        inputs = _score_maps((1, labels, 1, length), device)
        rounds = [sum(seconds_of_passes(_factored, inputs, device)) for _ in range(REPEATS + 1)]
        totals.append(min(rounds))
    return max(0.0, 1000 * (totals[1] - totals[0]) / 128 / ITERATIONS)


def _edge_scores(size: Size, device: torch.device) -> list[Tensor]:
    """Unary scores, and pairwise scores of every edge."""
    n, k, h, w = size
    shapes = [(n, k, h, w), *((n, k, k, h, w - g) for g in GAPS), *((n, k, k, h - g, w) for g in GAPS)]
    return _random(shapes, device)


def _score_maps(size: Size, device: torch.device) -> list[Tensor]:
    """Unary scores, and the parts of the pairwise scores that either end of an edge brings."""
    n, k, h, w = size
    return _random([(n, k, h, w), (n, k, k, h, w), (n, k, k, h, w)], device)


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


def rmi(device: torch.device, sizes: Sequence[Size] = RMI_SIZES) -> pd.DataFrame:
    """Times the versions of the RMI loss, radius 3, average pool 4, float32 logits, a tenth void.

    Returns:
        The rows of `compared`. The bytes that any version must move are those of logits in, twice, and
        their derivative out.
    """
    speed = copy_speed(device)
    rows = []
    for size in sizes:
        logits, labels = _segmentation(size, device)
        loss = RMILoss(size[1])
        versions = {
            "ours": Version(lambda x, y=labels, loss=loss: loss(x, y), [logits]),
            "direct": Version(lambda x, y=labels: direct_rmi(x, y), [logits]),
            "direct, all in float64": Version(lambda x, y=labels: direct_rmi(x.double(), y), [logits]),
        }
        for row in compared(size, versions, device):
            rows.append(row | floors(row, 4 * 3 * logits.numel(), speed, 0.0))
    return pd.DataFrame(rows)


def _segmentation(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits, and labels that are alike in blocks of 16 × 16, a tenth of them void."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n, h // 16 + 1, w // 16 + 1), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :h, :w].contiguous()
    return _random([tuple(size)], device)[0], labels.to(device)


def _random(shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Normal numbers with a gradient, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]


class Engine(NamedTuple):
    """One way of refining a batch by the dense CRF.

    Attributes:
        name: The engine's, as `dense_crf` knows it.
        device: Where it computes.
        single: Whether it takes image by image, with one thread.
    """

    name: Literal["torch", "pydensecrf"]
    device: torch.device
    single: bool

    def described(self, threads: int) -> str:
        """What tables call it."""
        where = "GPU" if self.device.type == "cuda" else f"{threads} CPU threads"
        return f"{self.name}, {'single images' if self.single else 'a batch'}, {where}"


def densecrf(device: torch.device, sizes: Sequence[Size] = DENSECRF_SIZES) -> pd.DataFrame:
    """Times the engines of the dense CRF, 10 updates with the paper's kernels, image by image and in a batch.

    Returns:
        A row for every size and version: the median time per image, images per second, how much faster
        that is than `pydensecrf` image by image (the last version), and the share of pixels whose label is
        the same.
    """
    cpu = torch.device("cpu")
    engines = [Engine("torch", device, False), Engine("torch", cpu, True)]
    engines += [Engine("pydensecrf", cpu, False), Engine("pydensecrf", cpu, True)]
    rows = []
    for size in sizes:
        images, probabilities = _scenery(size)
        timings = [_refinement(size, images, probabilities, engine) for engine in engines]
        slowest, reference = timings[-1]
        for row, labels in timings:
            row["images_per_s"] = 1000 / row["image_ms"]
            row["speed_up"] = slowest["image_ms"] / row["image_ms"]
            row["agreement"] = float((labels == reference[: len(labels)]).float().mean())
            rows.append(row)
    return pd.DataFrame(rows)


def _refinement(size: Size, images: Tensor, probabilities: Tensor, engine: Engine) -> tuple[Timing, Tensor]:
    """What an engine takes per image, and the labels that it gives."""
    threads = torch.get_num_threads()
    count = 1 if engine.single else threads
    torch.set_num_threads(count)
    batch = (images.to(engine.device), probabilities.to(engine.device))
    result, times = _refined(batch, engine)
    torch.set_num_threads(threads)
    milliseconds = 1000 * statistics.median(times) / (1 if engine.single else size[0])
    row = dict(zip("NKHW", size)) | {"version": engine.described(count), "image_ms": milliseconds}
    return row, result.argmax(1).cpu()


def _refined(batch: tuple[Tensor, Tensor], engine: Engine) -> tuple[Tensor, list[float]]:
    """The refined batch, and seconds: of each image, or of the whole batch some times."""
    single = [*zip(*(x.split(1) for x in batch))]
    parts = single if engine.single else [batch] * REPEATS
    dense_crf(*parts[0], engine=engine.name)
    rounds = [timed(partial(dense_crf, *part, engine=engine.name), engine.device) for part in parts]
    results, times = zip(*rounds)
    return torch.cat(results) if engine.single else results[0], [*times]


def _scenery(size: Size) -> tuple[Tensor, Tensor]:
    """Images of smooth shades and noise, and smooth probabilities of labels."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    shades = 255 * torch.rand(n, 3, h // 30, w // 30, generator=generator)
    images = functional.interpolate(shades, (h, w), mode="bilinear")
    images = (images + 6 * torch.randn(n, 3, h, w, generator=generator)).clamp(0, 255).to(torch.uint8)
    logits = 3 * torch.randn(n, k, h // 16, w // 16, generator=generator)
    return images, functional.interpolate(logits, (h, w), mode="bilinear").softmax(1)
