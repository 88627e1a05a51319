"""What a training step costs."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, replace

import torch

from common import devices
from common.config.settings import Execution, TrainingSettings
from common.datasets.split import Sample, Split
from common.runs.jobs import Training
from common.timing.clock import WARM_UP, enough, rounded
from common.training.batches import training_batches
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
    training: Training, execution: Execution, device: torch.device, repeats: int = TRAINING_STEPS
) -> TrainingCost:
    """Steps of a new model on real batches, which are loaded before; its weights stay as they are.

    Args:
        training: What is trained.
        execution: How; if several GPUs train a model, one GPU's share of the batches is timed.
        device: Where.
        repeats: How many steps to time, if there is time for them.

    Raises:
        UserError: Data are missing, or the method cannot work with them.
    """
    batch_size = batch_per_gpu(training.settings, execution)
    # times, not training: the weights stay as they are
    settings = replace(training.settings, batch_size=batch_size, learning_rate=0.0)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    model = build(training, pretrained=False).to(device).train()
    objective, optimizer = Objective(model), make_optimizer(model, settings)
    split = Split(training.data.dataset, training.data.manifest(), settings.split)
    mean = model.network.mean.flatten().tolist()
    loader = training_batches(split, settings, mean, training.seed, 0, 2 * settings.accumulate)
    loaded = [Sample(*(part.to(device) for part in batch)) for batch in loader]
    batches = itertools.cycle(loaded)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step() -> None:
        """One step of the optimiser."""
        training_step(objective, optimizer, batches, settings, device, training.seed)

    for _ in range(WARM_UP):
        step()
    values: list[float] = []
    start = time.monotonic()
    while not enough(len(values), repeats, start):
        values.append(1000 * devices.seconds(step, device))
    images = settings.batch_size * settings.accumulate
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
