"""Stage `estimate`: what the configured benchmark will take, before it starts.

The numbers of a dataset, model and method are those of its measured runs, if there are some on this kind of
device. Otherwise a new model is measured here and now, for a few training steps and images, as the `measure`
stage does.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from common import config as configuration
from common import devices, metrics, runs, stages
from common.config import Config
from common.datasets.loading import Split
from common.errors import OutOfMemory, UserError
from common.evaluate import image_counts
from common.files import read_json, replacing
from common.inference import Predictor, views
from common.measure import (
    INFERENCES,
    SECONDS,
    TRAINING_STEPS,
    WARM_UP,
    batch_per_gpu,
    inference_cost,
    training_cost,
)  # fmt: skip
from common.rendering import github, number
from common.train import build

REPEATS = 3

COLUMNS = (
    "dataset",
    "model",
    "method",
    "runs",
    "gpus",
    "to_train",
    "to_score",
    "step_ms",
    "image_ms",
    "training_hours",
    "other_hours",
    "gpu_memory",
    "disk",
    "checkpoint_disk",
    "source",
    "note",
)


def estimate(config: Config) -> pd.DataFrame:
    """What is still to be done, and what it will take.

    Returns:
        A line for each dataset, model and method, `COLUMNS`: the numbers of its runs, of GPUs of each, and of
        those to be trained and scored; milliseconds of a training step and of an image; hours of a device
        (or, without a GPU, of a job's cores) for training and for the rest; bytes of a GPU's memory (NaN
        without one), of what all its runs leave, and of checkpoints while one is trained; and where that is
        from.

    Raises:
        UserError: A manifest or the data are missing.
    """
    groups: dict[tuple[str, str, str], list[runs.Run]] = {}
    for run in runs.runs(config):
        if run.training is not None:
            groups.setdefault((run.dataset, run.model, run.method), []).append(run)
    owners: dict[Path, str] = {}  # the method that counts a model which several use
    for run in itertools.chain.from_iterable(groups.values()):
        folder = run.training.folder
        owners[folder] = run.method if run.method == run.training.method else owners.get(folder, run.method)
    with devices.leased(config["execution"]["device"]) as device:
        lines = [
            _line(config, members, owners[members[0].training.folder] == members[0].method, device)
            for members in groups.values()
        ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(config: Config, members: list[runs.Run], own: bool, device: torch.device) -> dict[str, Any]:
    """One line of the table; `own` says whether the models count as those of this method."""
    run = members[0]
    manifest = read_json(run.manifest.path)
    line: dict[str, Any] = {key: getattr(run, key) for key in ("dataset", "model", "method")}
    gpus = config["execution"]["gpus_per_run"] if device.type == "cuda" else 1
    line |= {"runs": len(members), "gpus": gpus, "note": ""}
    line["to_train"] = sum(own and not r.training.file.exists() for r in members)
    line["to_score"] = sum(not (r.metrics.exists() and r.cost.exists()) for r in members)
    settings = configuration.settings(config, "training", run.dataset, run.model)
    try:
        batch = batch_per_gpu(config, settings) * settings["accumulate"]
        cost = _measured(members, device, batch)
        line["source"] = "measured runs" if cost else "a few steps"
        cost = cost or _now(config, run, manifest, device)
    except (UserError, torch.OutOfMemoryError) as error:
        too_small = isinstance(error, torch.OutOfMemoryError)
        line["note"] = OutOfMemory.kind if too_small else str(error)
        return line | {"source": "failed"}
    training = settings["iterations"] * cost["training_step_ms"] / 1000
    other = _other_seconds(config, run, manifest, cost)
    model, optimiser = _bytes(config, run, settings)
    dataset = configuration.dataset(config, run.dataset)
    kept = _kept(config, len(dataset.class_names), _images(config, run, manifest))
    memory = cost["training_peak_memory"]
    return line | {
        "step_ms": cost["training_step_ms"],
        "image_ms": cost["latency_ms"],
        "training_hours": gpus * training * line["to_train"] / 3600,
        "other_hours": other * line["to_score"] / 3600,
        "gpu_memory": math.nan if memory is None else memory,
        "disk": len(members) * (model * own + kept),
        "checkpoint_disk": 2 * (model + optimiser) * own,
    }


def _measured(members: Iterable[runs.Run], device: torch.device, batch: int) -> dict[str, Any] | None:
    """What the `measure` stage has found of one of the runs on such a device, with batches of that size."""
    for run in members:
        if run.cost.exists():
            cost = read_json(run.cost)
            there = cost["provenance"]["device"] == devices.describe(device)
            if there and "latency_ms" in cost and cost.get("training_batch") == batch:
                return cost
    return None


def _now(config: Config, run: runs.Run, manifest: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same of a new model."""
    predictor = _untrained(config, run, device)
    inference = inference_cost(config, run, predictor, manifest, REPEATS)
    del predictor
    return inference | training_cost(config, run, manifest, device, REPEATS)


def _untrained(config: Config, run: runs.Run, device: torch.device) -> Predictor:
    classes = len(configuration.dataset(config, run.dataset).class_names)
    network, trained = build(config, run.training, classes, pretrained=False)
    method = trained
    if run.method != run.training.method:
        entry = configuration.method(config, run.method, run.dataset)
        method = entry.build(classes, network.feature_channels)
    parts = [part.to(device).eval() for part in (network, trained, method)]
    settings = configuration.settings(config, "evaluation", run.dataset, run.model)
    return Predictor(*parts, config["model_options"][run.model], device, {}, views(settings))


def _images(config: Config, run: runs.Run, manifest: dict[str, Any]) -> int:
    split = configuration.settings(config, "evaluation", run.dataset, run.model)["split"]
    return len(Split(configuration.dataset(config, run.dataset), manifest, split))


def _other_seconds(config: Config, run: runs.Run, manifest: dict[str, Any], cost: dict[str, Any]) -> float:
    """Evaluation, with reading and counting timed on one image, and measurement."""
    dataset = configuration.dataset(config, run.dataset)
    split = configuration.settings(config, "evaluation", run.dataset, run.model)["split"]
    start = time.perf_counter()
    labels = Split(dataset, manifest, split)[0].labels
    image_counts(
        metrics.labels_of(_certain(labels, len(dataset.class_names)))[0], labels, len(dataset.class_names)
    )
    counting = time.perf_counter() - start
    image, step = cost["latency_ms"] / 1000, cost["training_step_ms"] / 1000
    inference = min(INFERENCES * image, max(SECONDS, 3 * image))
    training = min(TRAINING_STEPS * step, max(SECONDS, 3 * step))
    measuring = WARM_UP * (image + step) + inference + training + SECONDS
    return _images(config, run, manifest) * (image + counting) + measuring


def _certain(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Probabilities of a labelling."""
    known = labels.long().clamp(max=classes - 1)
    return nn.functional.one_hot(known, classes).permute(2, 0, 1)[None].float()


def _bytes(config: Config, run: runs.Run, settings: dict[str, Any]) -> tuple[int, int]:
    """Of a trained model, and of its optimiser's state."""
    classes = len(configuration.dataset(config, run.dataset).class_names)
    parts = build(config, run.training, classes, pretrained=False)
    model = sum(x.numel() * x.element_size() for part in parts for x in part.state_dict().values())
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return model, weights * (2 if settings["optimizer"] == "adamw" else 1)


def _kept(config: Config, classes: int, images: int) -> float:
    """At most so many bytes of a run: the counts of every image, uncompressed, and label maps."""
    return 8 * images * (classes**2 + 20 * classes) + 1e6 * config["execution"]["labels_mb"]


def report(table: pd.DataFrame, device: str) -> str:
    """The table as Markdown, with totals."""
    cells = pd.DataFrame(
        {
            "dataset": table["dataset"],
            "model": table["model"],
            "method": table["method"],
            "runs": table["runs"],
            "to train": table["to_train"],
            "step ms": table["step_ms"].map(lambda x: number(x, 1)),
            "image ms": table["image_ms"].map(lambda x: number(x, 1)),
            "training h": table["training_hours"].map(lambda x: number(x, 2)),
            "the rest h": table["other_hours"].map(lambda x: number(x, 2)),
            "GPU memory GB": (table["gpu_memory"] / 1e9).map(lambda x: number(x, 1)),
            "disk MB": (table["disk"] / 1e6).map(lambda x: number(x, 0)),
            "from": table["source"],
            "note": table["note"],
        }
    )
    training, other = table["training_hours"].sum(), table["other_hours"].sum()
    per_run = table["training_hours"] / table["to_train"].where(table["to_train"] > 0) / table["gpus"]
    longest = per_run.max() if per_run.notna().any() else 0.0
    failed = int((table["source"] == "failed").sum())
    without = f", the {failed} that failed left out" if failed else ""
    kind = "GPU-hours" if table["gpu_memory"].notna().any() else "hours of a job's cores"
    return "\n\n".join(
        (
            github(cells),
            f"Still to do: {training + other:.2f} {kind} on {device}{without}, {training:.2f} of it "
            f"training and {other:.2f} scoring and measuring; the longest single training takes "
            f"{longest:.2f} hours. At the end all runs take at most {table['disk'].sum() / 1e9:.2f} GB of "
            f"disk, and every training up to {table['checkpoint_disk'].max() / 1e9:.2f} GB more for its "
            "checkpoints while it runs. Times are those of one job at a time, without loading data.",
        )
    )


def _main() -> None:
    config = stages.arguments("Says what the benchmark will take, before it starts.").config
    table = estimate(config)
    folder = Path(config["results"])
    text = report(table, devices.describe(devices.choose(config["execution"]["device"])))
    for path, content in (
        (folder / "estimate.csv", table.to_csv(index=False)),
        (folder / "estimate.md", f"# What this benchmark will take\n\n{text}\n"),
    ):
        with replacing(path) as file:
            file.write(content)
    print(text)


if __name__ == "__main__":
    stages.main(_main)
