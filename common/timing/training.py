"""What a training step costs."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from common.config.settings import Execution, TrainingSettings
from common.machine import devices
from common.networks.structured import StructuredNetwork
from common.runs.jobs import Training
from common.timing.clock import WARM_UP, enough, rounded
from common.training.batches import AnySample, preparing, training_batches
from common.training.images import training_images
from common.training.step import Objective, build, make_optimizer, training_step

TRAINING_STEPS = 30


@dataclass(frozen=True)
class TrainingCost:
    """What steps of the optimiser cost; the fields of `runs.records.Cost` of these names."""

    training_step_ms: float
    training_images_per_second: float
    training_repeats: int
    training_timings: list[float]
    training_batch: int
    training_peak_memory: int | None


def batch_per_gpu(settings: TrainingSettings, execution: Execution) -> int:
    """One GPU's share of a batch: it has no room for the whole, and BatchNorm needs two images."""
    gpus = execution.gpus_per_run
    return settings.batch_size if gpus == 1 else max(2, settings.batch_size // gpus)


def training_cost(
    training: Training,
    execution: Execution,
    device: torch.device,
    repeats: int = TRAINING_STEPS,
    least: float = 0.0,
) -> TrainingCost:
    """Steps of a new model on real batches, which are loaded before; its weights stay as they are.

    Args:
        training: What is trained.
        execution: How; if several GPUs train a model, one GPU's share of the batches is timed.
        device: Where.
        repeats: How many steps to time, if there is time for them.
        least: For how many seconds at least.

    Raises:
        UserError: Data are missing, or the method cannot work with them.
    """
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step, images = training_stepper(training, execution, device)
    values: list[float] = []
    start = time.monotonic()
    while not enough(len(values), repeats, start, least):
        values.append(step())
    return TrainingCost(
        training_step_ms=statistics.median(values),
        training_images_per_second=1000 * images / statistics.median(values),
        training_repeats=len(values),
        training_timings=rounded(values),
        training_batch=images,
        training_peak_memory=(
            torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else None
        ),
    )


class Stepper(NamedTuple):
    """What takes steps of a training.

    Attributes:
        step: Takes one and says how many milliseconds that took.
        images: How many there are in one.
    """

    step: Callable[[], float]
    images: int


def training_stepper(training: Training, execution: Execution, device: torch.device) -> Stepper:
    """What takes steps of a new model on real batches, which are loaded before; its weights stay as they are.

    Args:
        training: What is trained.
        execution: How; if several GPUs train a model, one GPU's share of the batches is timed.
        device: Where.

    Raises:
        UserError: Data are missing, or the method cannot work with them.
    """
    batch_size = batch_per_gpu(training.settings, execution)
    settings = replace(training.settings, batch_size=batch_size)
    model = build(training, pretrained=False).to(device)
    split = training_images(training.data.dataset, training.data.manifest(), settings)
    mean = model.network.mean.flatten().tolist()
    count = 2 * settings.accumulate
    hooks = preparing(model.method)
    loader = training_batches(split, settings, mean, training.stream, 0, count, hooks=hooks)
    loaded = [type(batch)(*(part.to(device) for part in batch)) for batch in loader]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = stepper(model, settings, loaded, device, training.seed)
    return Stepper(step, settings.batch_size * settings.accumulate)


def stepper(
    model: StructuredNetwork,
    settings: TrainingSettings,
    loaded: Sequence[AnySample],
    device: torch.device,
    seed: int,
) -> Callable[[], float]:
    """A function that takes a step of the optimiser and says how many milliseconds that took.

    The first steps have been taken; the weights stay as they are.

    Args:
        model: Network and method, on the device.
        settings: The settings of training.
        loaded: Batches, on the device.
        device: Where.
        seed: Of everything random inside the network.
    """
    settings = replace(settings, learning_rate=0.0)
    objective = Objective(model, settings.compile)
    optimizer = make_optimizer(model, settings)
    batches = itertools.cycle(loaded)

    def step() -> None:
        """One step of the optimiser."""
        training_step(objective, optimizer, batches, settings, device, seed)

    def milliseconds() -> float:
        """What it takes."""
        objective.train()
        return 1000 * devices.seconds(step, device)

    for _ in range(WARM_UP):
        milliseconds()
    return milliseconds
