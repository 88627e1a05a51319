"""What a run costs, `cost.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import Amount, Count, read_record, write_record
from common.provenance import Provenance
from common.runs.jobs import TrainedRun
from common.runs.records.owner import check_owner

REMEDY = "delete it and measure again"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`cost.json` of a run; times are in milliseconds, medians unless they are 95th percentiles.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        digest: That of the folder.
        parameters: Of the network and of the method that it was trained with.
        network_ms: The network's part of the latency of one image.
        structure_ms: The part of the structure inside the network.
        refine_ms: The part of the refinement after the network.
        latency_ms: One image, from pixels to probabilities.
        network_p95_ms: 95th percentile of the network's part.
        structure_p95_ms: 95th percentile of the structure's part.
        refine_p95_ms: 95th percentile of the refinement's part.
        latency_p95_ms: 95th percentile of the latency.
        inference_repeats: How many inferences were timed.
        image_sizes: The sizes of the images, as `<width>x<height>`.
        throughput: Images per second at the best size of batch.
        throughput_batch: The best size of batch.
        multiply_adds: Of the convolutions and matrix products of network and structure, for one image.
        multiply_adds_size: The size of the image that they are counted for.
        uncounted_operations: The project's own operations, which are none of these.
        training_step_ms: One step of the optimiser.
        training_images_per_second: How many images training takes in a second.
        training_repeats: How many steps of training were timed.
        training_batch: Images of a step.
        training_peak_memory: The peak of a GPU's memory in training, in bytes; None on a CPU.
        method_options: The options of the method.
        model_options: The options of the model.
        threads: How many threads of the CPU were used.
        wall_seconds: How long measuring took.
        peak_memory: Of the whole measurement, in bytes.
        provenance: How the record came to be.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
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
    image_sizes: list[str]
    throughput: Amount
    throughput_batch: Count
    multiply_adds: Count
    multiply_adds_size: str
    uncounted_operations: list[str]
    training_step_ms: Amount
    training_images_per_second: Amount
    training_repeats: Count
    training_batch: Count
    training_peak_memory: Count | None
    method_options: dict[str, Any]
    model_options: dict[str, Any]
    threads: Count
    wall_seconds: Amount
    peak_memory: Count
    provenance: Provenance

    @property
    def device(self) -> str:
        """The device that it was measured on."""
        return self.provenance.device

    @classmethod
    def read(cls, run: TrainedRun) -> Cost:
        """The cost of a run.

        Raises:
            UnreadableRecord: It is missing, damaged, or that of another run.
        """
        record = read_record(run.cost, cls, REMEDY)
        check_owner(run.cost, record, run, ("dataset", "model", "method", "seed", "digest"), REMEDY)
        return record

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)
