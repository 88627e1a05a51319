"""Run files as the stages leave them, without training: labels that are the truth, damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from common.config import reading
from common.config.entries import Config
from common.config.settings import plain
from common.datasets.base import panel_indices
from common.datasets.manifest import content_of
from common.files import replacing, write_record
from common.images.label_maps import LabelMaps
from common.integrity import StoredFile
from common.provenance import Provenance
from common.runs import recipes
from common.runs.benchmark import Benchmark
from common.runs.jobs import Control, Preparation, ReadRun, Run, TrainedRun, Training
from common.runs.records import (
    ControlMetrics,
    Cost,
    Load,
    LogLine,
    Metrics,
    PredictionsSource,
    TrainedModelFacts,
    ValidationLine,
)
from common.scoring.counts import SplitCounts, image_counts
from common.scoring.evidence import Evidence
from tests.conftest import TINY

PROVENANCE = Provenance("2026-11-01T12:00:00+00:00", "a" * 40, {"torch": "2.14"}, "a CPU")

STATE = "0" * 64
"""The SHA-256 of the weights of all models."""

QUIET = Load(
    on_gpu=False,
    alone=True,
    waited_seconds=0.5,
    load_average=0.1,
    cores=2,
    own_cores=1.9,
    other_cores=0.01,
    gpu_processes=None,
)

WRONG = {"ce": 0.3, "rmi": 0.2, "crf-1": 0.25, "ddcrf": 0.1}
"""Methods, and the share of pixels that they get wrong."""


def provenance(**changes: Any) -> Provenance:
    return dataclasses.replace(PROVENANCE, **changes)


def make_config(folder: Path, **changes: Any) -> Config:
    """A complete configuration with the methods of `WRONG` and two seeds, whose results lie in `folder`."""
    content = {"methods": [*WRONG], "seeds": [0, 1], "results": str(folder / "results")}
    return reading.complete(yaml.safe_load(yaml.safe_dump(TINY)) | content | changes)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the content of a record, and its checksum with it: as if it had been written so."""
    content = json.loads(path.read_text())
    content.pop("record_sha256")
    change(content)
    write_record(path, content)


def write_all(benchmark: Benchmark) -> None:
    """Writes all files of all runs, of the methods of `WRONG`."""
    for run in benchmark.runs:
        assert isinstance(run, TrainedRun)
        write_run(run, WRONG[run.method])


def write_run(run: TrainedRun, wrong: float) -> None:
    """Writes all files of a run of which a share `wrong` of the pixels has a random label."""
    certified = run.training.method == "ddcrf"
    write_evaluation(run, wrong, {"gap_per_cell": 0.25, "agreement": 0.75} if certified else {})
    write_log(run.training)
    cost_of(run, refine_ms=50.0 if run.method != run.training.method else 0.0).write(run.cost)


def write_evaluation(run: Run, wrong: float, diagnostics: Mapping[str, float] | None = None) -> None:
    """Writes what the evaluate stage does."""
    dataset = run.data.dataset
    random = np.random.default_rng([run.seed, len(run.method), int(1000 * wrong)])
    names = dataset.names("test")
    k = len(dataset.class_names)
    kept = LabelMaps(10**6, dataset.colours)
    images, panel = [], {}
    for index, name in enumerate(names):
        _, truth = dataset.read("test", name)
        noise = random.integers(0, k, truth.shape, dtype=np.uint8)
        predicted = np.where(random.random(truth.shape) < wrong * random.uniform(0.5, 1.5), noise, truth)
        probabilities = torch.full((k, *truth.shape), 0.5 / k).scatter_(
            0, torch.from_numpy(predicted).long()[None], 0.5 + 0.5 / k
        )
        evidence = Evidence.of(probabilities, torch.from_numpy(truth))
        images.append(image_counts(evidence.labels, torch.from_numpy(truth), k, evidence))
        kept.add(f"test/{name}", predicted)
        if index in panel_indices(len(names)):
            panel[f"labels_{panel_indices(len(names)).index(index)}"] = predicted
    kept.write(run.labels)
    with replacing(run.panel, "wb") as file:
        np.savez_compressed(file, **panel)
    counts = SplitCounts.of(np.array([f"test/{name}" for name in names]), images)
    counts.write(run.per_image)
    scores = counts.scores(list(dataset.class_names))
    metrics_of(run, **scores, images=len(names), diagnostics={**(diagnostics or {})}).write(run.metrics)


def write_scores(job: Run | Control, counts: SplitCounts, **changes: Any) -> None:
    """Writes counts per image and the record of the scores that they give, with some values changed."""
    counts.write(job.per_image)
    scores = {**counts.scores(job.data.dataset.class_names), "images": counts.names.size, **changes}
    record = control_metrics_of if isinstance(job, Control) else metrics_of
    record(job, **scores).write(job.metrics)


def plain_counts(
    job: Run | Control, miou: float, boundaries: bool = False, probabilities: bool = False
) -> SplitCounts:
    """Counts of four equal images with a score.

    Two classes occur: the first is 0.05 better than that, and the other as much worse: with seed 0 the second
    class, else the third.

    Args:
        job: Whose they are.
        miou: The score.
        boundaries: Whether there is something at boundaries: in bands of 1, 2, 4 and 8 pixels mIoU is 0.1 to
            0.4; Boundary IoU is 0.3 and the F-score 0.5.
        probabilities: Whether there are some: of 0.9, of which a share of 0.8 is right; −log p is 0.7 on
            average.
    """
    names, errors = job.data.dataset.class_names, 10**8
    second = 2 if getattr(job, "seed", 0) else 1
    confusion = np.zeros((4, len(names), len(names)), np.int64)
    confusion[:, 0, second] = confusion[:, second, 0] = errors // 2
    for place, iou in ((0, miou + 0.05), (second, miou - 0.05)):
        confusion[:, place, place] = round(errors * iou / (1 - iou))
    counts = counts_of(confusion, np.zeros((4, 2, len(names))))
    if boundaries:
        counts.boundary[:, :, 0] = 3, 10
        counts.contour[:, :, 0] = 2, 1, 2, 1
        counts.trimap[:, :4, :, 0] = [(2, 11, 11), (2, 6, 6), (6, 13, 13), (4, 7, 7)]
    if probabilities:
        pixels = confusion.sum(axis=(1, 2))
        bins = np.zeros((4, 15, 3))
        bins[:, 13] = np.stack([pixels, 0.8 * pixels, 0.9 * pixels], axis=1)
        counts = dataclasses.replace(counts, calibration=bins, nll=0.7 * pixels)
    return counts


def _content_of(data: Preparation) -> str:
    """The content of a dataset as its manifest has it, or any."""
    return content_of(data.path) or "c"


def facts_of(training: Training, **changes: Any) -> TrainedModelFacts:
    """Where the model of a training comes from."""
    facts = TrainedModelFacts(
        training.digest,
        _content_of(training.data),
        None,
        60.0,
        10**9,
        PROVENANCE,
        STATE,
        0,
        recipes.TRAINING.number,
    )
    return dataclasses.replace(facts, **changes)


def metrics_of(run: Run, **changes: Any) -> Metrics:
    """The scores of a run; `changes` are values of the record, at least the scores.

    It tells of the other files of the run as they are now.
    """
    content: dict[str, Any] = {
        "dataset": run.dataset,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "digest": run.digest,
        "recipe": recipes.SCORING.number,
        "split": run.evaluation.split,
        "evaluation": run.evaluation,
        "content_sha256": _content_of(run.data),
        "provenance": PROVENANCE,
        "wall_seconds": 1.0,
        "peak_memory": 10**9,
        "files": StoredFile.all_of([run.per_image, run.panel, run.labels]),
    }
    if isinstance(run, TrainedRun):
        content |= {
            "trained_as": run.training.method,
            "trained": facts_of(run.training),
            "members": [facts_of(member) for member in run.members[1:]],
            "method_module": run.entry.module,
            "method_code": "0" * 64,
            "method_options": run.entry.options,
            "model_options": plain(run.training.model_options),
        }
    elif isinstance(run, ReadRun):
        content["predictions"] = PredictionsSource(run.predictions.folder, "0" * 64)
    return Metrics(**(content | changes))


def control_metrics_of(control: Control, **changes: Any) -> ControlMetrics:
    """The scores of a control; `changes` are values of the record, at least the scores."""
    content: dict[str, Any] = {
        "dataset": control.dataset,
        "model": control.model,
        "digest": control.digest,
        "recipe": recipes.SCORING.number,
        "control": control.name,
        "split": control.split,
        "content_sha256": _content_of(control.data),
        "provenance": PROVENANCE,
        "wall_seconds": 1.0,
        "files": StoredFile.all_of([control.per_image]),
    }
    return ControlMetrics(**(content | changes))


def cost_of(run: TrainedRun, **changes: Any) -> Cost:
    """The cost of a run; its latency is the sum of its parts, and timings lie 2 % around their medians."""
    content: dict[str, Any] = {
        "network_ms": 10.0 + run.seed,
        "structure_ms": 1.0,
        "refine_ms": 0.0,
        "network_p95_ms": 20.0,
        "structure_p95_ms": 2.0,
        "refine_p95_ms": 100.0,
        "latency_p95_ms": 120.0,
        "inference_repeats": 10,
        "image_sizes": ["48x48"],
        "throughput": 50.0,
        "throughput_batch": 4,
        "multiply_adds": 40_000_000,
        "multiply_adds_size": "48x48",
        "uncounted_operations": [],
        "training_step_ms": 100.0,
        "training_images_per_second": 20.0,
        "training_repeats": 10,
        "training_batch": 2,
        "training_peak_memory": None,
        "parameters": 1_500_000,
        "method_options": run.entry.options,
        "model_options": plain(run.training.model_options),
        "threads": 1,
        "load": QUIET,
        "wall_seconds": 2.0,
        "peak_memory": 10**9,
        "state_sha256": STATE,
        "provenance": PROVENANCE,
    } | changes
    latency = content["network_ms"] + content["structure_ms"] + content["refine_ms"]
    names = {key: getattr(run, key) for key in ("dataset", "model", "method", "seed", "digest")}
    content = {"latency_ms": latency} | content
    parts = {part: around(content[f"{part}_ms"]) for part in ("network", "structure", "refine", "latency")}
    made = {
        "recipe": recipes.MEASURING.number,
        "inference_timings": parts,
        "training_timings": around(content["training_step_ms"]),
    }
    return Cost(**(names | made | content))


def around(median: float) -> list[float]:
    """Timings with that median, and quartiles 2 % below and above it."""
    return [factor * median for factor in (0.96, 0.98, 1.0, 1.02, 1.04)]


def write_log(
    training: Training, iterations: range = range(20, 820, 20), rest: str = "", **changes: Any
) -> None:
    """Writes the log of a training.

    Args:
        training: The training.
        iterations: Of the lines.
        rest: What stands behind the last whole line.
        **changes: Values of every line.
    """
    lines = []
    for place, iteration in enumerate(iterations):
        loss = 2 / (place + 1) + 0.01 * training.seed
        line = LogLine(iteration, loss, 0.001, 20.0, 0.1, 10.0 * iteration)
        lines.append(json.dumps(dataclasses.replace(line, **changes).flat()) + "\n")
    training.folder.mkdir(parents=True, exist_ok=True)
    training.log.write_text("".join(lines) + rest)


def add_validations(training: Training) -> None:
    """Adds the scores of two validations to the log of a training."""
    lines = [
        ValidationLine(iteration, "val", 5, 0.3, 0.6, {"background": 0.3}, 1.0) for iteration in (400, 800)
    ]
    with training.log.open("a") as file:
        file.writelines(json.dumps(line.flat()) + "\n" for line in lines)


def counts_of(confusion: np.ndarray, boundary: np.ndarray, names: np.ndarray | None = None) -> SplitCounts:
    """Counts of a split, of which only confusion `[N, K, K]` and boundary bands `[N, 2, K]` are told."""
    n, k = confusion.shape[:2]
    names = np.array([f"test/{i}" for i in range(n)]) if names is None else names
    trimap, contour = np.zeros((n, 5, 3, k), np.int32), np.zeros((n, 4, k), np.int32)
    return SplitCounts(names, confusion, trimap, boundary.astype(np.int32), contour)
