"""What a benchmark will take, before it starts.

The numbers of a dataset, model and method are those of its measured runs, if there are some on this kind of
device. Otherwise a new model is measured here and now, for a few training steps and images, as the `measure`
stage does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch

from common import phases
from common.config.settings import Execution
from common.datasets.base import VALIDATION
from common.datasets.split import Split
from common.errors import OutOfMemory, UserError
from common.machine import devices, job_locks
from common.prediction.predictor import Pipeline, views
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun, Training
from common.runs.records import Cost, JobTimes
from common.timing.inference import example_images, inference_cost
from common.timing.job_seconds import Besides, measuring_seconds, scoring_seconds
from common.timing.training import batch_per_gpu, training_cost
from common.training.step import build

REPEATS = 3
"""At least so many steps and inferences of a new model are timed."""

MOMENT = 0.5
"""For so many seconds at least: the first moments take longer."""


@dataclass(kw_only=True)
class Estimate:
    """What the runs of one dataset, model and method will take; NaN where it could not be measured.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry.
        runs: How many there are.
        gpus: Of each.
        to_train: How many are to be trained, counted with one of the methods that share a model.
        to_score: How many are to be scored.
        to_measure: How many are to be measured.
        step_ms: Of a training step.
        image_ms: Of an image.
        job_seconds: What a training takes besides: to start, to load and to write.
        training_hours: Hours of training, of a device, or without a GPU of a job's cores.
        other_hours: Hours for all but training, of a device or of a job's cores.
        gpu_memory: In bytes; NaN without a GPU.
        disk: What all runs leave, in bytes.
        checkpoint_disk: What checkpoints take while one is trained, in bytes.
        source: Where the numbers are from.
        note: Why there are none.
    """

    dataset: str
    model: str
    method: str
    runs: int
    gpus: int
    to_train: int
    to_score: int
    to_measure: int
    step_ms: float = math.nan
    image_ms: float = math.nan
    job_seconds: float = math.nan
    training_hours: float = math.nan
    other_hours: float = math.nan
    gpu_memory: float = math.nan
    disk: float = math.nan
    checkpoint_disk: float = math.nan
    source: str = "failed"
    note: str = ""


@dataclass(frozen=True)
class Times:
    """What a step and an image cost.

    Attributes:
        step_ms: Of a training step.
        image_ms: Of an image.
        memory: Of a GPU in training, in bytes; None on a CPU.
        source: Where the numbers are from.
    """

    step_ms: float
    image_ms: float
    memory: int | None
    source: str


@dataclass(frozen=True)
class Members:
    """The runs of one dataset, model and method.

    Attributes:
        runs: One per seed.
        trainings: All that the runs need, but for those that count as another method's.
    """

    runs: Sequence[TrainedRun]
    trainings: Sequence[Training]

    @property
    def first(self) -> TrainedRun:
        """The run that is measured, where none was."""
        return self.runs[0]

    @property
    def to_train(self) -> list[Training]:
        """What is to be trained and counted here."""
        return [training for training in self.trainings if not training.file.exists()]

    @property
    def to_score(self) -> int:
        """How many runs lack scores."""
        return sum(not run.metrics.exists() for run in self.runs)

    @property
    def to_measure(self) -> int:
        """How many runs lack a cost that they are to have."""
        return sum(run.measured and not run.cost.exists() for run in self.runs)


def estimates(benchmark: Benchmark, cores: int | None = None) -> pd.DataFrame:
    """What is still to be done, and what it will take.

    Args:
        benchmark: What is to be done.
        cores: Those that a job has on a CPU; None is as many as this process uses.

    Returns:
        A row for each dataset, model and method, with the fields of `Estimate`.

    Raises:
        UserError: A manifest or the data are missing.
    """
    for group in benchmark.groups:
        group.data.manifest()  # without one there is no estimate at all, not just no line
    started = time.time() - phases.process_began()
    with devices.leased(benchmark.execution.device) as device, job_locks.shared(device.type):
        if cores and device.type == "cpu":
            devices.set_threads(cores)
        besides = Besides.of(JobTimes.read_all(benchmark.outputs.results), started)
        lines = [_line(members, benchmark.execution, device, besides) for members in _groups(benchmark)]
    return pd.DataFrame([asdict(line) for line in lines], columns=[field.name for field in fields(Estimate)])


def _groups(benchmark: Benchmark) -> list[Members]:
    """The runs that a line is about; a model that several methods use counts as that of one."""
    groups: dict[tuple[str, str, str], list[TrainedRun]] = {}
    owners: dict[Path, tuple[tuple[str, str, str], Training]] = {}
    for run in benchmark.runs:
        if isinstance(run, TrainedRun):
            key = (run.dataset, run.model, run.method)
            groups.setdefault(key, []).append(run)
            for training in run.trainings:
                first = owners.setdefault(training.folder, (key, training))
                its_own = training.method == run.method and not training.member
                owners[training.folder] = (key, training) if its_own else first
    counted: dict[tuple[str, str, str], list[Training]] = {}
    for key, training in owners.values():
        counted.setdefault(key, []).append(training)
    return [Members(runs, counted.get(key, [])) for key, runs in groups.items()]


def _line(members: Members, execution: Execution, device: torch.device, besides: Besides) -> Estimate:
    """What some runs will take, or why that is unknown."""
    run = members.first
    line = Estimate(
        dataset=run.dataset,
        model=run.model,
        method=run.method,
        runs=len(members.runs),
        gpus=execution.gpus_per_run if device.type == "cuda" else 1,
        to_train=len(members.to_train),
        to_score=members.to_score,
        to_measure=members.to_measure,
    )
    try:
        times = _measured(members.runs, execution, device) or _measured_now(run, execution, device)
        training_seconds = _training_seconds(members, times, execution, device)
    except (UserError, torch.OutOfMemoryError) as error:
        line.note = OutOfMemory.kind if isinstance(error, torch.OutOfMemoryError) else str(error)
        return line
    model, optimiser = _bytes(run.training)
    line.step_ms, line.image_ms, line.source = times.step_ms, times.image_ms, times.source
    line.job_seconds = besides.seconds("train")
    line.training_hours = line.gpus * (training_seconds + line.job_seconds * line.to_train) / 3600
    image, step = times.image_ms / 1000, times.step_ms / 1000
    scoring = besides.seconds("evaluate") + scoring_seconds(_scored_split(run), image, device)
    measuring = besides.seconds("measure") + measuring_seconds(image, step)
    line.other_hours = (scoring * line.to_score + measuring * line.to_measure) / 3600
    line.gpu_memory = math.nan if times.memory is None else times.memory
    line.disk = model * len(members.trainings) + line.runs * _kept_bytes(run, execution)
    line.checkpoint_disk = 2 * (model + optimiser) * bool(members.trainings)
    return line


def _training_seconds(members: Members, times: Times, execution: Execution, device: torch.device) -> float:
    """How long everything takes that is to be trained; what others start from is measured here and now."""
    steps = {members.first.training.method: times.step_ms}
    seconds = 0.0
    for training in members.to_train:
        if training.method not in steps:
            cost = training_cost(training, execution, device, REPEATS, MOMENT)
            steps[training.method] = cost.training_step_ms
        seconds += training.settings.iterations * steps[training.method] / 1000
        seconds += _validated_images(training, execution) * times.image_ms / 1000
    return seconds


def _validated_images(training: Training, execution: Execution) -> int:
    """How many images are scored while a model is trained, all times together."""
    dataset, every = training.data.dataset, execution.validate_every
    if not every or dataset.not_validated(training.settings.split):
        return 0
    images = len(Split(dataset, training.data.manifest(), VALIDATION))
    return math.ceil(training.settings.iterations / every) * min(images, execution.validate_images or images)


def _measured(runs: Iterable[TrainedRun], execution: Execution, device: torch.device) -> Times | None:
    """What the `measure` stage says of one of the runs, on such a device and with such batches."""
    for run in runs:
        settings = run.training.settings
        if run.cost.exists():
            try:
                cost = Cost.read(run)
            except UserError as error:  # its row of the tables says so, too
                print(f"structseg: not used: {error}", file=sys.stderr)
                continue
            same_batch = cost.training_batch == batch_per_gpu(settings, execution) * settings.accumulate
            if cost.device == devices.describe(device) and same_batch:
                memory = cost.training_peak_memory
                return Times(cost.training_step_ms, cost.latency_ms, memory, "measured runs")
    return None


def _measured_now(run: TrainedRun, execution: Execution, device: torch.device) -> Times:
    """What a few steps and images of a new model cost."""
    images = example_images(_scored_split(run), device)
    inference = inference_cost(untrained(run, device), images, REPEATS, MOMENT)
    training = training_cost(run.training, execution, device, REPEATS, MOMENT)
    memory = training.training_peak_memory
    return Times(training.training_step_ms, inference.latency_ms, memory, "a few steps")


def untrained(run: TrainedRun, device: torch.device) -> Pipeline:
    """What turns images into probabilities, with a new model."""
    model = build(run.training, pretrained=False).to(device).eval()
    method = model.method
    if run.method != run.training.method:
        classes = len(run.data.dataset.class_names)
        method = run.entry.build(classes, model.network.feature_channels).to(device).eval()
    others = (model,) * (len(run.members) - 1)  # they take as long
    return Pipeline(model, method, device, views(run.evaluation), others)


def _scored_split(run: TrainedRun) -> Split:
    """The images that a run is scored on."""
    return Split(run.data.dataset, run.data.manifest(), run.evaluation.split)


def _bytes(training: Training) -> tuple[int, int]:
    """Bytes of a trained model, and of its optimiser's state."""
    model = build(training, pretrained=False)
    state = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return state, weights * (2 if training.settings.optimizer == "adamw" else 1)


def _kept_bytes(run: TrainedRun, execution: Execution) -> float:
    """At most so many bytes of a run: the counts of every image, uncompressed, and label maps."""
    classes = len(run.data.dataset.class_names)
    return 8 * len(_scored_split(run)) * (classes**2 + 20 * classes) + 1e6 * execution.labels_mb
