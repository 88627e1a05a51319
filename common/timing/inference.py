"""What inference costs: latency of its parts, throughput, counted operations."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.datasets.split import Split
from common.machine import devices
from common.networks.structured import StructuredNetwork, refined
from common.prediction.operators import CustomOperators
from common.prediction.predictor import Pipeline, View
from common.timing.clock import SECONDS, WARM_UP, enough, rounded, timed

INFERENCE_IMAGES = 20
"""So many images of the split are timed, again and again."""

INFERENCES = 60

LARGEST_BATCH = {"cuda": 256, "cpu": 8}
GAIN = 1.02
"""A batch of twice the size is tried as long as the last one was so much faster per image."""


@dataclass(frozen=True)
class InferenceCost:
    """Times of single images; the fields of `runs.records.Cost` of these names, in milliseconds."""

    network_ms: float
    structure_ms: float
    refine_ms: float
    latency_ms: float
    network_p95_ms: float
    structure_p95_ms: float
    refine_p95_ms: float
    latency_p95_ms: float
    inference_repeats: int
    inference_timings: dict[str, list[float]]
    image_sizes: list[str]


@dataclass(frozen=True)
class BatchCost:
    """What whole batches reach; the fields of `runs.records.Cost` of these names."""

    throughput: float
    throughput_batch: int
    multiply_adds: int
    multiply_adds_size: str
    uncounted_operations: list[str]


class Parts(NamedTuple):
    """Seconds of the parts of one inference.

    Attributes:
        network: From pixels to the network's output, and from logits to probabilities.
        structure: The structure inside the network.
        refine: The refinement after the network.
        latency: All of it.
    """

    network: float
    structure: float
    refine: float
    latency: float


def example_images(split: Split, device: torch.device) -> list[Tensor]:
    """The first images of a split, uint8 `[1, 3, H, W]` each, on a device."""
    return [split[i].image.unsqueeze(0).to(device) for i in range(min(len(split), INFERENCE_IMAGES))]


@torch.inference_mode()
def inference_cost(
    pipeline: Pipeline, images: Sequence[Tensor], repeats: int = INFERENCES, least: float = 0.0
) -> InferenceCost:
    """Times of single images, medians and 95th percentiles.

    Args:
        pipeline: What is timed.
        images: uint8 `[1, 3, H, W]` each, on the device of the pipeline.
        repeats: How many inferences to time, if there is time for them.
        least: For how many seconds at least.
    """
    sizes = {tuple(image.shape): image for image in images}  # a new size has work of its own to do first
    for image in [*images[:WARM_UP], *sizes.values()]:
        _parts(pipeline, image)
    rounds: list[Parts] = []
    start = time.monotonic()
    for image in itertools.cycle(images):
        rounds.append(_parts(pipeline, image))
        if enough(len(rounds), repeats, start, least):
            break
    milliseconds = {part: [1000 * getattr(times, part) for times in rounds] for part in Parts._fields}
    medians = {f"{part}_ms": statistics.median(values) for part, values in milliseconds.items()}
    highest = {f"{part}_p95_ms": float(np.percentile(values, 95)) for part, values in milliseconds.items()}
    return InferenceCost(
        **medians,
        **highest,
        inference_repeats=len(rounds),
        inference_timings={part: rounded(values) for part, values in milliseconds.items()},
        image_sizes=sorted({f"{image.shape[3]}x{image.shape[2]}" for image in images}),
    )


def _parts(pipeline: Pipeline, image: Tensor) -> Parts:
    """The times of one inference."""
    probabilities: list[Tensor] = []
    network = structure = 0.0
    for model, view in itertools.product(pipeline.models, pipeline.views):
        result, of_network, of_structure = _view(pipeline, model, view, image)
        probabilities.append(result)
        network, structure = network + of_network, structure + of_structure
    mean = torch.stack(probabilities).mean(dim=0) if len(probabilities) > 1 else probabilities[0]
    _, refine = timed(lambda: refined(pipeline.method, image, mean), pipeline.device)
    return Parts(network, structure, refine, network + structure + refine)


def _view(
    pipeline: Pipeline, model: StructuredNetwork, view: View, image: Tensor
) -> tuple[Tensor, float, float]:
    """Unrefined probabilities of one model in one view, and the seconds of network and structure."""
    device = pipeline.device
    shown, scaling = timed(lambda: view.of(image), device)
    output, network = timed(lambda: model.run_network(shown), device)
    logits, structure = timed(lambda: model.structured(output), device)
    kind = pipeline.method.refines
    probabilities, last = timed(
        lambda: view.back(model.normalised(logits, output, kind), image.shape[2:]), device
    )
    return probabilities, scaling + network + last, structure


@torch.inference_mode()
def batch_cost(pipeline: Pipeline, image: Tensor) -> BatchCost:
    """Throughput at the best size of batch, of copies of an image, and the operations of one of them.

    Args:
        pipeline: What is timed.
        image: uint8 `[1, 3, H, W]`, on the device of the pipeline.
    """
    multiply_adds, uncounted = operations(pipeline, image)
    throughput, best = 0.0, 0
    start, batch = time.monotonic(), 1
    while batch <= LARGEST_BATCH[pipeline.device.type] and time.monotonic() - start < SECONDS:
        images = image.repeat(batch, 1, 1, 1)
        try:
            pipeline(images)
            times = [devices.seconds(partial(pipeline, images), pipeline.device) for _ in range(3)]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rate, before = batch / statistics.median(times), throughput
        if rate > before:
            throughput, best = rate, batch
        if rate < GAIN * before:
            break
        batch *= 2
    return BatchCost(throughput, best, multiply_adds, f"{image.shape[3]}x{image.shape[2]}", uncounted)


def operations(pipeline: Pipeline, image: Tensor) -> tuple[int, list[str]]:
    """The multiply-adds of the convolutions and matrix products of the network and the structure.

    The project's own operations are no such products and are not counted, but named; nor is the refinement.

    Args:
        pipeline: What computes.
        image: uint8 `[1, 3, H, W]`.

    Returns:
        Their number, and the names of the operations that are not counted.
    """
    with FlopCounterMode(display=False) as counter, CustomOperators() as custom:
        pipeline.unrefined(image)
    return counter.get_total_flops() // 2, sorted(custom.names)
