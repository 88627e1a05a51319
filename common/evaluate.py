"""Stage `evaluate`: scores one run on the split that the configuration names."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from common import boundaries, devices, metrics, runs, stages
from common import config as configuration
from common.config import Config
from common.datasets.base import Dataset, panel_indices
from common.datasets.loading import Split
from common.errors import UserError
from common.files import read_json, replacing, write_json
from common.inference import Predictor, origin
from common.labelmaps import LabelMaps
from common.predictions import Predictions
from common.provenance import peak_memory, record


def evaluate(config: Config, run: runs.Run) -> None:
    """Writes a run's scores, the counts of every image that they come from, and the labels of its panel.

    Label maps of more images are kept for the report, up to `execution.labels_mb`. Every image is scored at
    its original size, alone; void is left out.

    Raises:
        UserError: The trained model or the data are missing.
    """
    with (
        stages.recording_failure(run.folder / "error.json", "evaluate", f"scoring {runs.described(run)}"),
        devices.leased("cpu" if run.predictions else config["execution"]["device"]) as device,
    ):
        start = time.monotonic()
        settings = configuration.settings(config, "evaluation", run.dataset, run.model)
        manifest = read_json(run.manifest.path)
        dataset = configuration.dataset(config, run.dataset)
        split = Split(dataset, manifest, settings["split"])
        _check_labelled(dataset, manifest, settings["split"])
        predictor = run.predictions or Predictor.of(config, run, device)
        kept = LabelMaps(int(1e6 * config["execution"]["labels_mb"]), dataset.colours)
        counts, panel, diagnostics = _score(predictor, split, len(dataset.class_names), kept)
        calibration = {}
        if "nll" in counts:
            calibration = metrics.calibration_scores(counts["calibration"], counts["nll"])
        names = list(dataset.class_names)
        runs.forget_tables(config)
        kept.write(run.labels)
        with replacing(run.panel, "wb") as file:
            np.savez_compressed(file, **panel)
        with replacing(run.per_image, "wb") as file:
            np.savez_compressed(file, names=image_names(split), **counts)
        write_json(
            run.metrics,
            {
                "dataset": run.dataset,
                "model": run.model,
                "method": run.method,
                "seed": run.seed,
                "digest": run.digest,
                **origin(config, run, predictor),
                "split": settings["split"],
                "evaluation": settings,
                "images": len(split),
                **metrics.scores(counts["confusion"].sum(axis=0), names),
                **boundaries.scores(counts, names),
                **calibration,
                "diagnostics": diagnostics,
                "content_sha256": manifest["content_sha256"],
                "provenance": record(devices.describe(device)),
                "wall_seconds": round(time.monotonic() - start, 3),
                "peak_memory": peak_memory(device),
            },
        )


def _check_labelled(dataset: Dataset, manifest: dict[str, Any], split: str) -> None:
    parts = [manifest["splits"][part] for part in dataset.parts(split)]
    if not any(sum(part["pixels"].values()) for part in parts):
        raise UserError(
            f"evaluation.split (for {dataset.entry}): {split} has no labelled pixel: if its labels are not "
            "public, score another split"
        )


def image_names(split: Split) -> np.ndarray:
    """What the images of a split are called in `per_image.npz`, `<split>/<name>`."""
    return np.array([f"{part}/{name}" for part, name in split.names])


@torch.inference_mode()
def _score(
    predictor: Predictor | Predictions, split: Split, num_classes: int, kept: LabelMaps
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, float]]:
    """Counts of all images, stacked by name, the panel's label maps, and the mean diagnostics."""
    counts, panel = [], {}
    sums: dict[str, float] = {}
    shown = panel_indices(split.first_part)
    for index in range(len(split)):
        sample = split[index]
        if isinstance(predictor, Predictions):
            predicted = predictor.read(*split.names[index], tuple(sample.labels.shape), num_classes)
            calibration = {}  # labels alone have no probabilities
        else:
            probabilities = predictor(sample.image.unsqueeze(0).to(predictor.device))
            predicted = metrics.labels_of(probabilities)[0].cpu()
            bins, nll = metrics.calibration(probabilities[0], sample.labels.to(predictor.device))
            calibration = {"calibration": bins, "nll": np.array(nll)}
        counts.append(image_counts(predicted, sample.labels, num_classes) | calibration)
        if index in shown:
            panel[f"labels_{shown.index(index)}"] = predicted.numpy()
        kept.add("/".join(split.names[index]), predicted.numpy())
        diagnostics = {} if isinstance(predictor, Predictions) else predictor.trained.diagnostics()
        for key, value in diagnostics.items():
            sums[key] = sums.get(key, 0.0) + value
    return stacked(counts), panel, {key: value / len(split) for key, value in sums.items()}


def image_counts(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> dict[str, np.ndarray]:
    """The confusion and boundary counts of one image; arguments as of `metrics.confusion`, on the CPU."""
    confusion = metrics.confusion(predicted, labels, num_classes)
    return {"confusion": confusion, **boundaries.counts(predicted.numpy(), labels.numpy(), num_classes)}


def stacked(counts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The counts of images, one dictionary each, as one dictionary of arrays `[N, …]`."""
    return {key: np.stack([image[key] for image in counts]) for key in counts[0]}


def _main() -> None:
    parsed = stages.arguments("Scores one run.", "dataset", "model", "method", "seed")
    run = runs.run(parsed.config, parsed.dataset, parsed.model, parsed.method, parsed.seed)
    stages.check_digest(parsed.digest, run.digest)
    evaluate(parsed.config, run)
    print(run.metrics)


if __name__ == "__main__":
    stages.main(_main)
