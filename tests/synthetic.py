"""Run files as the stages leave them, without training: labels that are the truth, damaged."""

from __future__ import annotations

import json

import numpy as np
import torch

from common import boundaries, metrics, runs
from common import config as configuration
from common.config import Config
from common.datasets.base import panel_indices
from common.evaluate import image_counts, stacked
from common.files import replacing, write_json
from common.labelmaps import LabelMaps

PROVENANCE = {
    "written": "2026-11-01T12:00:00+00:00",
    "commit": "a" * 40,
    "packages": {"torch": "2.14"},
    "device": "a CPU",
}


def write_run(config: Config, run: runs.Run, wrong: float) -> None:
    """Writes all files of a run of which a share `wrong` of the pixels has a random label."""
    write_evaluation(config, run, wrong)
    write_training(run)
    diagnostics = {"gap_per_cell": 0.25, "agreement": 0.75} if run.training.method == "ddcrf" else {}
    scores = json.loads(run.metrics.read_text())
    write_json(run.metrics, scores | {"diagnostics": diagnostics})
    write_json(
        run.cost,
        {
            "network_ms": 10.0 + run.seed,
            "structure_ms": 1.0,
            "refine_ms": 50.0 if run.method != run.training.method else 0.0,
            "training_step_ms": 100.0,
            "training_peak_memory": None,
            "parameters": 1_500_000,
            "provenance": PROVENANCE,
        },
    )


def write_evaluation(config: Config, run: runs.Run, wrong: float) -> None:
    """Writes what the evaluate stage does."""
    dataset = configuration.dataset(config, run.dataset)
    random = np.random.default_rng([run.seed, len(run.method), int(1000 * wrong)])
    names = dataset.names("test")
    k = len(dataset.class_names)
    kept = LabelMaps(10**6, dataset.colours)
    counts, panel = [], {}
    for index, name in enumerate(names):
        _, truth = dataset.read("test", name)
        noise = random.integers(0, k, truth.shape, dtype=np.uint8)
        predicted = np.where(random.random(truth.shape) < wrong * random.uniform(0.5, 1.5), noise, truth)
        labels = torch.from_numpy(truth)
        probabilities = torch.full((k, *truth.shape), 0.5 / k).scatter_(
            0, torch.from_numpy(predicted).long()[None], 0.5 + 0.5 / k
        )
        bins, nll = metrics.calibration(probabilities, labels)
        counts.append(
            image_counts(torch.from_numpy(predicted), labels, k) | {"calibration": bins, "nll": np.array(nll)}
        )
        kept.add(f"test/{name}", predicted)
        if index in panel_indices(len(names)):
            panel[f"labels_{panel_indices(len(names)).index(index)}"] = predicted
    kept.write(run.labels)
    with replacing(run.panel, "wb") as file:
        np.savez_compressed(file, **panel)
    with replacing(run.per_image, "wb") as file:
        arrays = stacked(counts)
        np.savez_compressed(file, names=np.array([f"test/{name}" for name in names]), **arrays)
    class_names = list(dataset.class_names)
    trained = {"content_sha256": "c", "weights_sha256": None, "wall_seconds": 60.0, "provenance": PROVENANCE}
    write_json(
        run.metrics,
        {
            "dataset": run.dataset,
            "model": run.model,
            "method": run.method,
            "seed": run.seed,
            "split": "test",
            "images": len(names),
            **metrics.scores(arrays["confusion"].sum(axis=0), class_names),
            **boundaries.scores(arrays, class_names),
            **metrics.calibration_scores(arrays["calibration"], arrays["nll"]),
            "content_sha256": "c",
            "trained": trained,
            "provenance": PROVENANCE,
        },
    )


def write_training(run: runs.Run, lines: int = 40) -> None:
    """Writes the log of a run's training."""
    run.training.folder.mkdir(parents=True, exist_ok=True)
    entries = ({"iteration": 20 * (i + 1), "loss": 2 / (i + 1) + 0.01 * run.seed} for i in range(lines))
    run.training.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
