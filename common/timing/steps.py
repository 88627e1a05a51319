"""Times of whole methods on made-up images: steps of training, inferences, and the losses alone.

They need no data and no trained model, and take the path that trainings and scorings take. The family `step`
is a step of training and the inference of one image, the family `loss` the losses alone, at full size.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import methods
from common.config.method_entry import MethodEntry
from common.config.settings import TrainingSettings
from common.datasets.split import Sample
from common.networks.hooks import Hooks
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork
from common.prediction.predictor import Pipeline
from common.timing import scenes
from common.timing.cases import Bench, Case, Timing
from common.timing.clock import enough
from common.timing.inference import inference_cost
from common.timing.passes import Version, cost, floors, resident
from common.timing.training import stepper
from common.training.batches import with_prepared
from methods.base import Method

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

SEED = 0
"""Of everything random, first weights too."""

CHANNELS = 16
"""Features of a method whose loss alone is timed; the loss sees none of them."""


class Subject(NamedTuple):
    """A method to be timed.

    Attributes:
        entry: The method.
        trained: The method that its model is trained with, itself or another one.
    """

    entry: MethodEntry
    trained: MethodEntry

    @property
    def own(self) -> bool:
        """Whether the method trains a model of its own."""
        return self.entry.name == self.trained.name


@dataclass(frozen=True)
class Workload:
    """What methods are timed on.

    Attributes:
        model: Name of the model.
        options: Its options.
        settings: The settings of training; their batch size and precision do not count.
        size: N, K, H, W of a batch.
        subjects: The methods.
        baseline: The method that the others are compared with.
    """

    model: str
    options: ModelOptions
    settings: TrainingSettings
    size: tuple[int, int, int, int]
    subjects: Sequence[Subject]
    baseline: str


class _Stand:
    """A network and a batch, on which methods take turns."""

    def __init__(self, workload: Workload, bench: Bench) -> None:
        self.workload, self.bench = workload, bench
        self._baselines: dict[str, Callable[[], float]] = {}

    @cached_property
    def network(self) -> Network:
        """With random weights."""
        torch.manual_seed(SEED)
        options = replace(self.workload.options, weights="none")
        network = Network(self.workload.model, self.workload.size[1], options)
        return network.to(self.bench.device).to(memory_format=torch.channels_last)

    @cached_property
    def batch(self) -> Sample:
        """Images and labels, uint8."""
        size, device = self.workload.size, self.bench.device
        return Sample(scenes.images(size, device), scenes.label_maps(size, device).to(torch.uint8))

    def method(self, entry: MethodEntry) -> Method:
        """A method at the end of its training."""
        torch.manual_seed(SEED)
        method = entry.build(self.workload.size[1], self.network.feature_channels)
        method.progress = 1.0
        return method.to(self.bench.device)

    def stepper(self, method: Method, precision: Precision) -> Callable[[], float]:
        """Takes a step of training, and says how many milliseconds that took."""
        settings = replace(self.workload.settings, precision=precision)
        model = StructuredNetwork(self.network, method)
        batch = with_prepared(self.batch, method)
        return stepper(model, settings, [batch], self.bench.device, SEED)

    def baseline(self, precision: Precision) -> Callable[[], float] | None:
        """That of the baseline; None if it trains no model of its own."""
        name = self.workload.baseline
        if precision not in self._baselines:
            for subject in self.workload.subjects:
                if subject.own and subject.entry.name == name:
                    self._baselines[precision] = self.stepper(self.method(subject.entry), precision)
        return self._baselines.get(precision)


def step(workloads: Sequence[Workload], bench: Bench) -> Iterator[Case]:
    """A step of training in both precisions, and in float32, as images are scored, an inference.

    A row has the median time of a step, by how much it is longer than one of the baseline (the median of
    differences, one of either being taken in turns), the peak memory of training, and the median time of an
    inference and of its parts. A method that reuses a trained model has no step.
    """
    for workload in workloads:
        stand = _Stand(workload, bench)
        for precision in PRECISIONS:
            for subject in workload.subjects:
                if subject.own or precision == "float32":
                    place = _place(workload) | {"model": workload.model, "precision": precision}
                    name, measure = subject.entry.name, partial(_row, stand, subject, precision)
                    yield Case(place, name, measure, _foreign(subject.entry), name == workload.baseline)


def loss(workloads: Sequence[Workload], bench: Bench) -> Iterator[Case]:
    """The losses of all methods that have one of their own, forward and backward, on float32 logits.

    The bytes that any of them must move are those of logits in, twice, and their derivative out.
    """
    for workload in workloads:
        logits = cache(partial(scenes.normal, [workload.size], bench.device))
        for subject in workload.subjects:
            name, reference = subject.entry.name, subject.entry.name == workload.baseline
            own = methods.load(subject.entry.module).loss is not Method.loss
            if subject.own and (own or reference):
                measure = partial(_loss_row, subject.entry, workload, logits, bench)
                yield Case(_place(workload), name, measure, reference=reference)


def _place(workload: Workload) -> Timing:
    return dict(zip("NKHW", workload.size))


def _foreign(entry: MethodEntry) -> bool:
    """Whether a method's work is done by another package: its options name another engine than PyTorch."""
    return entry.options.get("engine", "torch") != "torch"


def _row(stand: _Stand, subject: Subject, precision: Precision) -> Timing:
    """The step and the inference of one method."""
    trained = stand.method(subject.trained)
    row = _step_row(stand, trained, precision) if subject.own else {}
    if precision == "float32":
        method = trained if subject.own else stand.method(subject.entry)
        model = StructuredNetwork(stand.network, trained).eval()
        row |= _inference_row(Pipeline(model, method.eval(), stand.bench.device), stand)
    return row


def _step_row(stand: _Stand, method: Method, precision: Precision) -> Timing:
    """Steps of training, in turns with those of the baseline."""
    baseline, device = stand.baseline(precision), stand.bench.device
    state = itertools.chain(stand.network.parameters(), stand.network.buffers())
    network = sum(tensor.nbytes for tensor in state)
    stand.network.zero_grad(set_to_none=True)  # the baseline has left gradients
    held = resident(device, reset=True)
    step = stand.stepper(method, precision)
    peak = network + resident(device, reset=False) - held
    times: list[float] = []
    differences: list[float] = []
    start = time.monotonic()
    while not enough(len(times), stand.bench.effort.steps, start):
        before = baseline() if baseline else math.nan
        times.append(step())
        differences.append(times[-1] - before)
    return {
        "step_ms": statistics.median(times),
        "step_over_ms": statistics.median(differences),
        "repeats": len(times),
        "peak_bytes": peak,
    }


def _inference_row(pipeline: Pipeline, stand: _Stand) -> Timing:
    """Inferences of one image."""
    image = stand.batch.image[:1].contiguous()
    times = inference_cost(pipeline, [image], stand.bench.effort.inferences)
    return {
        "inference_ms": times.latency_ms,
        "structure_ms": times.structure_ms,
        "refine_ms": times.refine_ms,
    }


def _loss_row(
    entry: MethodEntry, workload: Workload, logits: Callable[[], list[Tensor]], bench: Bench
) -> Timing:
    """The loss of one method."""
    method = entry.build(workload.size[1], CHANNELS)
    seen = _seen(method, workload, bench.device)
    hooks = Hooks(method.to(bench.device))
    labels = scenes.label_maps(workload.size, bench.device)
    row = cost(Version(lambda x: hooks.loss(x, labels, sights=seen), logits()), bench)
    moved = 3 * logits()[0].numel() * logits()[0].element_size()
    return row | floors(row["forward_ms"] + row["backward_ms"], moved, bench.copy_speed)


def _seen(method: Method, workload: Workload, device: torch.device) -> dict[str, Tensor]:
    """What a loss asks for beside logits and labels: made up, on the grid of the model's output stride."""
    n, classes, height, width = workload.size
    stride = workload.options.output_stride
    grid = (math.ceil(height / stride), math.ceil(width / stride))
    images = scenes.images(workload.size, device)
    labels = scenes.label_maps(workload.size, device).to(torch.uint8)
    made: dict[str, Callable[[], Tensor]] = {
        "images": images.float,
        "features": lambda: scenes.normal([(n, CHANNELS, *grid)], device)[0].detach(),
        "unary": lambda: scenes.normal([(n, classes, *grid)], device)[0].detach(),
        "prepared": lambda: with_prepared(Sample(images, labels), method)[-1],
    }
    return {name: made[name]() for name in Hooks(method).asked_for("loss")}
