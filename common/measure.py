"""Stage `measure`: what one run costs, alone on its device.

Times are wall times after warm-up with the device's queue emptied before and after: inference of
single images at their original size, split into network, structure and refinement, whole batches, and steps
of training on real batches without the loading of data.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from common import config as configuration
from common import devices, runs, stages
from common.config import Config
from common.datasets.loading import Split, training_batches
from common.errors import UserError
from common.files import read_json, write_json
from common.inference import Predictor, View
from common.models import upsample
from common.provenance import peak_memory, record
from common.train import build, make_optimizer, training_step

INFERENCE_IMAGES = 20
INFERENCES = 60
TRAINING_STEPS = 30
WARM_UP = 5
SECONDS = 20.0
"""Each measurement ends after this time, once it has three values."""

LARGEST_BATCH = {"cuda": 256, "cpu": 8}
GAIN = 1.02
"""A batch of twice the size is tried as long as the last one was so much faster per image."""


def measure(config: Config, run: runs.Run) -> None:
    """Writes the run's `cost.json`; times are medians in milliseconds, memory is in bytes.

    Raises:
        UserError: The trained model or the data are missing.
    """
    with (
        stages.recording_failure(run.folder / "error.json", "measure", f"measuring {runs.described(run)}"),
        devices.leased(config["execution"]["device"]) as device,
    ):
        start = time.monotonic()
        manifest = read_json(run.manifest.path)
        predictor = Predictor.of(config, run, device)
        inference = inference_cost(config, run, predictor, manifest)
        inference |= _whole_batches(predictor, inference.pop("example"))
        parameters = sum(p.numel() for m in (predictor.network, predictor.trained) for p in m.parameters())
        del predictor
        training = training_cost(config, run, manifest, device)
        runs.forget_tables(config)
        write_json(
            run.cost,
            {
                "dataset": run.dataset,
                "model": run.model,
                "method": run.method,
                "seed": run.seed,
                "digest": run.digest,
                "parameters": parameters,
                **inference,
                **training,
                "method_options": configuration.method(config, run.method, run.dataset).options,
                "model_options": config["model_options"][run.model],
                "threads": torch.get_num_threads(),
                "wall_seconds": round(time.monotonic() - start, 3),
                "peak_memory": peak_memory(device),
                "provenance": record(devices.describe(device)),
            },
        )


@torch.inference_mode()
def inference_cost(
    config: Config, run: runs.Run, predictor: Predictor, manifest: dict[str, Any], repeats: int = INFERENCES
) -> dict[str, Any]:
    """Times of single images, medians and 95th percentiles in milliseconds, and one of them as `example`."""
    settings = configuration.settings(config, "evaluation", run.dataset, run.model)
    split = Split(configuration.dataset(config, run.dataset), manifest, settings["split"])
    device = predictor.device
    images = [split[i].image.unsqueeze(0).to(device) for i in range(min(len(split), INFERENCE_IMAGES))]
    parts: dict[str, list[float]] = {"network": [], "structure": [], "refine": [], "latency": []}
    corners = predictor.options["align_corners"]

    def seen(view: View, image: Tensor) -> tuple[Tensor, dict[str, float]]:
        shown, scaling = _timed(lambda: view.of(image), device)
        padded = predictor.network.pad(shown)
        size = (shown.shape[2], shown.shape[3])
        output, network = _timed(lambda: predictor.network(predictor.network.pad(shown)), device)
        logits, structure = _timed(
            lambda: predictor.trained.structure(padded, output.features, output.unary), device
        )
        probabilities, last = _timed(
            lambda: view.back(
                predictor.trained.probabilities(upsample(logits, padded, size, corners)), image.shape[2:]
            ),
            device,
        )
        return probabilities, {"network": scaling + network + last, "structure": structure}

    def once(image: Tensor) -> dict[str, float]:
        views = [seen(view, image) for view in predictor.views]
        probabilities = sum(found for found, _ in views) / len(views)
        _, refine = _timed(lambda: predictor.method.refine(image, probabilities), device)
        times = {key: sum(found[key] for _, found in views) for key in views[0][1]} | {"refine": refine}
        return times | {"latency": sum(times.values())}

    sizes = {tuple(image.shape): image for image in images}  # a new size has work of its own to do first
    for image in [*images[:WARM_UP], *sizes.values()]:
        once(image)
    start = time.monotonic()
    for image in itertools.cycle(images):
        for part, seconds in once(image).items():
            parts[part].append(1000 * seconds)
        if _enough(len(parts["network"]), repeats, start):
            break
    heights = {f"{image.shape[3]}x{image.shape[2]}" for image in images}
    return {
        **{f"{part}_ms": statistics.median(values) for part, values in parts.items()},
        **{f"{part}_p95_ms": float(np.percentile(values, 95)) for part, values in parts.items()},
        "example": images[0],
        "inference_repeats": len(parts["network"]),
        "image_sizes": sorted(heights),
    }


@torch.inference_mode()
def _whole_batches(predictor: Predictor, image: Tensor) -> dict[str, Any]:
    """Throughput at the best size of batch, and the operations of one image, of copies of an image."""
    found = {
        "throughput": 0.0,
        "throughput_batch": 0,
        "multiply_adds_size": f"{image.shape[3]}x{image.shape[2]}",
        **_operations(predictor, image),
    }
    start, batch = time.monotonic(), 1
    while batch <= LARGEST_BATCH[predictor.device.type] and time.monotonic() - start < SECONDS:
        images = image.repeat(batch, 1, 1, 1)
        try:
            predictor(images)
            repeats = [devices.seconds(lambda x=images: predictor(x), predictor.device) for _ in range(3)]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rate, before = batch / statistics.median(repeats), found["throughput"]
        if rate > before:
            found |= {"throughput": rate, "throughput_batch": batch}
        if rate < GAIN * before:
            break
        batch *= 2
    return found


class _CustomOperations(TorchDispatchMode):
    """Collects the names of the operations that are not PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace not in ("aten", "prim", "prims"):
            self.names.add(f"{function.namespace}::{function.name().partition('::')[2]}")
        return function(*args, **(kwargs or {}))


def _operations(predictor: Predictor, image: Tensor) -> dict[str, Any]:
    """The multiply-adds of the convolutions and matrix products of the network and the structure.

    The project's own operations are no such products and are not counted, but named; nor is the refinement.
    """
    with FlopCounterMode(display=False) as counter, _CustomOperations() as custom:
        predictor.unrefined(image)
    return {"multiply_adds": counter.get_total_flops() // 2, "uncounted_operations": sorted(custom.names)}


def batch_per_gpu(config: Config, settings: dict[str, Any]) -> int:
    """One GPU's share of a batch: it has no room for the whole, and BatchNorm needs two images."""
    gpus = config["execution"]["gpus_per_run"]
    return settings["batch_size"] if gpus == 1 else max(2, settings["batch_size"] // gpus)


def training_cost(
    config: Config,
    run: runs.Run,
    manifest: dict[str, Any],
    device: torch.device,
    repeats: int = TRAINING_STEPS,
) -> dict[str, Any]:
    """Steps of a new model on real batches, which are loaded before; its weights stay as they are.

    If several GPUs train a model, one GPU's share of the batches.
    """
    settings = configuration.settings(config, "training", run.dataset, run.model)
    settings["batch_size"] = batch_per_gpu(config, settings)
    options = config["model_options"][run.model]
    dataset = configuration.dataset(config, run.dataset)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    network, method = build(config, run.training, len(dataset.class_names), pretrained=False)
    network, method = network.to(device).train(), method.to(device).train()
    optimizer = make_optimizer(network, method, settings | {"learning_rate": 0.0})  # times, not training
    count = 2 * settings["accumulate"]
    split = Split(dataset, manifest, settings["split"])
    mean = network.mean.flatten().tolist()
    loader = training_batches(split, settings, mean, run.seed, 0, count)
    batches = itertools.cycle([[part.to(device) for part in batch] for batch in loader])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step() -> None:
        training_step(network, method, optimizer, batches, settings, options, device, run.seed)

    for _ in range(WARM_UP):
        step()
    values: list[float] = []
    start = time.monotonic()
    while not _enough(len(values), repeats, start):
        values.append(1000 * devices.seconds(step, device))
    peak = torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else None
    return {
        "training_step_ms": statistics.median(values),
        "training_images_per_second": 1000
        * settings["batch_size"]
        * settings["accumulate"]
        / statistics.median(values),
        "training_repeats": len(values),
        "training_batch": settings["batch_size"] * settings["accumulate"],
        "training_peak_memory": peak,
    }


def _timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    result: list[Any] = []
    seconds = devices.seconds(lambda: result.append(function()), device)
    return result[0], seconds


def _enough(count: int, wanted: int, start: float) -> bool:
    return count >= wanted or (count >= 3 and time.monotonic() - start > SECONDS)


def _main() -> None:
    parsed = stages.arguments("Measures the cost of one run.", "dataset", "model", "method", "seed")
    run = runs.run(parsed.config, parsed.dataset, parsed.model, parsed.method, parsed.seed)
    if run.training is None:
        raise UserError(f"{run.method} is read from a folder: there is nothing to measure")
    stages.check_digest(parsed.digest, run.digest)
    measure(parsed.config, run)
    print(run.cost)


if __name__ == "__main__":
    stages.main(_main)
