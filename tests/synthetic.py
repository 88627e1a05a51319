"""Run files as the stages leave them, without training: labels that are the truth, damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from common.config import reading
from common.config.entries import Config
from common.config.settings import plain
from common.datasets.base import panel_indices
from common.files import replacing
from common.images.label_maps import LabelMaps
from common.provenance import Provenance
from common.runs.jobs import Control, ReadRun, Run, TrainedRun, Training
from common.runs.plan import Benchmark
from common.runs.records import ControlMetrics, Cost, LogLine, Metrics, PredictionsSource, TrainedModelFacts
from common.scoring.counts import SplitCounts, image_counts
from tests.conftest import TINY

PROVENANCE = Provenance("2026-11-01T12:00:00+00:00", "a" * 40, {"torch": "2.14"}, "a CPU")

WRONG = {"ce": 0.3, "rmi": 0.2, "crf-1": 0.25, "ddcrf": 0.1}
"""Methods, and the share of pixels that they get wrong."""


def provenance(**changes: Any) -> Provenance:
    return dataclasses.replace(PROVENANCE, **changes)


def make_config(folder: Path, **changes: Any) -> Config:
    """A complete configuration with the methods of `WRONG` and two seeds, whose results lie in `folder`."""
    content = {"methods": [*WRONG], "seeds": [0, 1], "results": str(folder / "results")}
    return reading.complete(yaml.safe_load(yaml.safe_dump(TINY)) | content | changes)


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
        images.append(image_counts(torch.from_numpy(predicted), torch.from_numpy(truth), k, probabilities))
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


def plain_scores(miou: float, seed: int = 0) -> dict[str, Any]:
    """Scores of two classes, without boundaries and calibration; the second is only in the first seed."""
    return {
        "images": 4,
        "miou": miou,
        "pixel_accuracy": min(1.0, miou + 0.1),
        "iou": {"background": min(1.0, miou + 0.05), "one": None if seed else miou - 0.05},
        "trimap_miou": {},
        "boundary_iou": None,
        "boundary_f": None,
        "boundary_iou_per_class": {},
        "boundary_f_per_class": {},
    }


def facts_of(training: Training, **changes: Any) -> TrainedModelFacts:
    """Where the model of a training comes from."""
    facts = TrainedModelFacts(training.digest, "c", None, 60.0, 10**9, PROVENANCE)
    return dataclasses.replace(facts, **changes)


def metrics_of(run: Run, **changes: Any) -> Metrics:
    """The scores of a run; `changes` are values of the record, at least the scores."""
    content: dict[str, Any] = {
        "dataset": run.dataset,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "digest": run.digest,
        "split": run.evaluation.split,
        "evaluation": run.evaluation,
        "content_sha256": "c",
        "provenance": PROVENANCE,
        "wall_seconds": 1.0,
        "peak_memory": 10**9,
    }
    if isinstance(run, TrainedRun):
        content |= {
            "trained_as": run.training.method,
            "trained": facts_of(run.training),
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
        "control": control.name,
        "split": control.split,
        "content_sha256": "c",
        "provenance": PROVENANCE,
        "wall_seconds": 1.0,
    }
    return ControlMetrics(**(content | changes))


def cost_of(run: TrainedRun, **changes: Any) -> Cost:
    """The cost of a run; its latency is the sum of its parts."""
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
        "wall_seconds": 2.0,
        "peak_memory": 10**9,
        "provenance": PROVENANCE,
    } | changes
    latency = content["network_ms"] + content["structure_ms"] + content["refine_ms"]
    names = {key: getattr(run, key) for key in ("dataset", "model", "method", "seed", "digest")}
    return Cost(**(names | {"latency_ms": latency} | content))


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


def counts_of(confusion: np.ndarray, boundary: np.ndarray, names: np.ndarray | None = None) -> SplitCounts:
    """Counts of a split, of which only confusion `[N, K, K]` and boundary bands `[N, 2, K]` are told."""
    n, k = confusion.shape[:2]
    names = np.array([f"test/{i}" for i in range(n)]) if names is None else names
    trimap, contour = np.zeros((n, 5, 3, k), np.int32), np.zeros((n, 4, k), np.int32)
    return SplitCounts(names, confusion, trimap, boundary.astype(np.int32), contour)
