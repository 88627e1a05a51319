"""What a run costs, `cost-<n>.json`, measured by recipe n."""

from __future__ import annotations

import contextlib
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import Damaged, UserError
from common.files import Amount, Count, read_record, write_record
from common.provenance import Provenance
from common.runs import recipes
from common.runs.jobs import TrainedRun
from common.runs.records.load import Load
from common.runs.records.owner import check_owner

REMEDY = "delete it and measure again"


@dataclass(frozen=True)
class TrainingPart:
    """What a training costs that a run needs: its own, or one that it starts from.

    Attributes:
        method: Name of the method entry.
        iterations: Steps of the optimiser.
        step_ms: What one of them takes.
        models: How many are trained so: the members of an ensemble.
    """

    method: str
    iterations: Count
    step_ms: Amount
    models: Count

    @property
    def seconds(self) -> float:
        """What all of it takes."""
        return self.models * self.iterations * self.step_ms / 1000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`cost-<n>.json` of a run; times are in milliseconds, medians unless they are 95th percentiles.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        digest: That of the folder.
        recipe: The number n of the recipe of measuring.
        parameters: Of the network and of the method that it was trained with, of all members.
        network_ms: The network's part of the latency of one image.
        structure_ms: The part of the structure inside the network.
        refine_ms: The part of the refinement after the network.
        latency_ms: One image, from pixels to probabilities.
        network_p95_ms: 95th percentile of the network's part.
        structure_p95_ms: 95th percentile of the structure's part.
        refine_p95_ms: 95th percentile of the refinement's part.
        latency_p95_ms: 95th percentile of the latency.
        inference_repeats: How many inferences were timed.
        inference_timings: What every one of them took, in milliseconds, in order: lists by the names of the
            parts network, structure and refine, and of latency, which is all of it.
        image_sizes: The sizes of the images, as `<width>x<height>`.
        throughput: Images per second at the best size of batch.
        throughput_batch: The best size of batch.
        multiply_adds: Of the convolutions and matrix products of network and structure, for one image.
        multiply_adds_size: The size of the image that they are counted for.
        uncounted_operations: The project's own operations, which are none of these.
        training_step_ms: One step of the optimiser.
        training_images_per_second: How many images training takes in a second.
        training_repeats: How many steps of training were timed.
        training_timings: What every one of them took, in milliseconds, in order.
        training_batch: Images of a step.
        training_peak_memory: The peak of a GPU's memory in training, in bytes; None on a CPU.
        training_parts: All trainings that the run needs, in their order; empty in records that do not tell.
        method_options: The options of the method.
        model_options: The options of the model.
        threads: How many threads of the CPU were used.
        load: What else the machine did meanwhile.
        wall_seconds: How long measuring took.
        peak_memory: Of the whole measurement, in bytes.
        state_sha256: Of the weights of the model, as in its file.
        members_sha256: Of those of the further members of an ensemble.
        provenance: How the record came to be.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
    recipe: Count
    parameters: Count
    network_ms: Amount
    structure_ms: Amount
    refine_ms: Amount
    latency_ms: Amount
    network_p95_ms: Amount
    structure_p95_ms: Amount
    refine_p95_ms: Amount
    latency_p95_ms: Amount
    inference_repeats: Count
    inference_timings: dict[str, list[Amount]]
    image_sizes: list[str]
    throughput: Amount
    throughput_batch: Count
    multiply_adds: Count
    multiply_adds_size: str
    uncounted_operations: list[str]
    training_step_ms: Amount
    training_images_per_second: Amount
    training_repeats: Count
    training_timings: list[Amount]
    training_batch: Count
    training_peak_memory: Count | None
    training_parts: list[TrainingPart] = field(default_factory=list)
    method_options: dict[str, Any]
    model_options: dict[str, Any]
    threads: Count
    load: Load
    wall_seconds: Amount
    peak_memory: Count
    state_sha256: str
    members_sha256: list[str] = field(default_factory=list)
    provenance: Provenance

    def __post_init__(self) -> None:
        """Refuses times that contradict the single ones that they are made of.

        Raises:
            ValueError: They do.
        """
        parts = ("network", "structure", "refine", "latency")
        timings = {f"{part}_ms": self.inference_timings.get(part, []) for part in parts}
        for name, single in (timings | {"training_step_ms": self.training_timings}).items():
            if not single:
                raise ValueError(f"no timings of {name}")
            if not math.isclose(getattr(self, name), statistics.median(single), rel_tol=0.01, abs_tol=0.001):
                raise ValueError(f"{name} is not the median of its timings")
        if min(self.latency_ms, self.training_step_ms, self.training_images_per_second) <= 0:
            raise ValueError("a time is zero")

    @property
    def device(self) -> str:
        """The device that it was measured on."""
        return self.provenance.device

    def training_seconds(self, iterations: int) -> float:
        """What everything takes that is trained for the run: what it starts from, and all members.

        Args:
            iterations: Of the run's own training, which is all that there is in records without parts.
        """
        if not self.training_parts:
            return iterations * self.training_step_ms / 1000
        return sum(part.seconds for part in self.training_parts)

    @property
    def outdated(self) -> bool:
        """Whether it was measured by an older recipe than that of today."""
        return self.recipe < recipes.MEASURING.number

    @classmethod
    def read(cls, run: TrainedRun) -> Cost:
        """The cost of a run, measured by the recipe of today.

        Raises:
            UserError: It is missing, damaged, of another run or recipe, or out of reach.
        """
        return cls._read(run, recipes.MEASURING.number)

    @classmethod
    def read_outdated(cls, run: TrainedRun) -> Cost | None:
        """The cost of a run, measured by the newest of older recipes; None if none can be read."""
        for recipe in range(recipes.MEASURING.number - 1, 0, -1):
            with contextlib.suppress(UserError):
                return cls._read(run, recipe)
        return None

    @classmethod
    def _read(cls, run: TrainedRun, recipe: int) -> Cost:
        """The cost of a run, measured by the recipe of that number."""
        path = run.cost_by(recipe)
        record = read_record(path, cls, REMEDY)
        check_owner(path, record, run, ("dataset", "model", "method", "seed", "digest"), REMEDY)
        if record.recipe != recipe:
            raise Damaged(path, f"says that recipe {record.recipe} measured it", REMEDY)
        return record

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)
