"""Stage `kernels`: times the project's kernels side by side with what they replace.

Writes one CSV per family of kernels and a Markdown page that gathers them. The family `chain` is the
dual decomposition of methods/ddcrf.py, as kernels (with pairwise scores per edge, and factored) and in plain
PyTorch, against a loop over single steps; the family `rmi` is the loss of methods/rmi.py against a direct
implementation. Both baselines are in the style of the published codes. The family `densecrf` is the dense CRF
of methods/densecrf.py against `pydensecrf`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional

from common import devices, stages
from common.baselines import direct_rmi, per_step_loop
from common.files import replacing
from common.provenance import record
from methods.ddcrf import dual_decomposition, dual_decomposition_factored, dual_decomposition_reference
from methods.densecrf import dense_crf
from methods.rmi import RMILoss

CHAIN_SIZES = ((2, 21, 33, 33), (8, 21, 33, 33), (8, 11, 30, 30), (1, 19, 65, 129))
"""N, K, h, w: VOC at training size, CamVid, Cityscapes."""

RMI_SIZES = ((2, 21, 513, 513), (8, 11, 240, 240))
"""N, K, H, W: VOC, and CamVid as workflow/presets/camvid_cpu.yaml crops it."""

DENSECRF_SIZES = ((4, 11, 360, 480), (4, 21, 375, 500))
"""Of a batch of CamVid, and of VOC."""

GAPS = (1, 2)
ITERATIONS = 5
GAMMA = 2.0
REPEATS = 7
SECONDS = 20.0
"""A version is timed `REPEATS` times, or until this time has passed, but three times at least."""

Version = Callable[..., Tensor]


def chain(device: torch.device, sizes: Sequence[Sequence[int]] = CHAIN_SIZES) -> pd.DataFrame:
    """Times the versions of the dual decomposition, gaps 1 and 2, 5 iterations, float32, γ = 2.

    Returns:
        The rows of `_compared`. The bytes that any version must move are those of scores in and logits out,
        then of scores and the logits' derivative in and those of the scores out. The floor of latency is
        as many dependent steps as a version must take one after the other, in the measured time of one.
    """
    speed = copy_speed(device)
    rows = []
    for size in sizes:
        edges, maps = _scores(size, device), _maps(size, device)
        versions = {
            "kernels": (_dense(dual_decomposition), edges),
            "kernels, factored": (_factored, maps),
            "plain PyTorch": (_dense(dual_decomposition_reference), edges),
            "loop over steps": (_dense(per_step_loop), edges),
        }
        latency = ITERATIONS * (max(size[2:]) - 1) * _step(size[1], device)
        for row in _compared(size, versions, device):
            inputs = versions[row["version"]][1]
            moved = 4 * (3 * sum(x.numel() for x in inputs) + 2 * inputs[0].numel())
            rows.append(row | _floors(row, moved, speed, latency))
    return pd.DataFrame(rows)


def rmi(device: torch.device, sizes: Sequence[Sequence[int]] = RMI_SIZES) -> pd.DataFrame:
    """Times the versions of the RMI loss, radius 3, average pool 4, float32 logits, a tenth void.

    Returns:
        The rows of `_compared`. The bytes that any version must move are those of logits in, twice, and
        their derivative out.
    """
    speed = copy_speed(device)
    rows = []
    for size in sizes:
        logits, labels = _segmentation(size, device)
        loss = RMILoss(size[1])
        versions = {
            "ours": (lambda x, y=labels, loss=loss: loss(x, y), [logits]),
            "direct": (lambda x, y=labels: direct_rmi(x, y), [logits]),
            "direct, all in float64": (lambda x, y=labels: direct_rmi(x.double(), y), [logits]),
        }
        for row in _compared(size, versions, device):
            rows.append(row | _floors(row, 4 * 3 * logits.numel(), speed, 0.0))
    return pd.DataFrame(rows)


def densecrf(device: torch.device, sizes: Sequence[Sequence[int]] = DENSECRF_SIZES) -> pd.DataFrame:
    """Times the engines of the dense CRF, 10 updates with the paper's kernels, image by image and in a batch.

    Returns:
        A row for every size and version: the median time per image, images per second, how much faster
        that is than `pydensecrf` image by image (the last version), and the share of pixels whose label is
        the same.
    """
    rows = []
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    for size in sizes:
        images, probabilities = _scenery(size)
        versions = [("torch", device, False), ("torch", cpu, True)]
        versions += [("pydensecrf", cpu, False), ("pydensecrf", cpu, True)]
        found = []
        for engine, where, single in versions:
            count = 1 if single else threads
            torch.set_num_threads(count)
            given = (images.to(where), probabilities.to(where))
            result, times = _refinements(given, engine, where, single)
            milliseconds = 1000 * statistics.median(times) / (1 if single else size[0])
            name = f"{engine}, {'single images' if single else 'a batch'}, "
            name += "GPU" if where.type == "cuda" else f"{count} CPU threads"
            labels = result.argmax(1).cpu()
            found.append((dict(zip("NKHW", size)) | {"version": name, "image_ms": milliseconds}, labels))
        torch.set_num_threads(threads)
        slowest, reference = found[-1]
        for row, labels in found:
            row["images_per_s"] = 1000 / row["image_ms"]
            row["speed_up"] = slowest["image_ms"] / row["image_ms"]
            row["agreement"] = float((labels == reference[: len(labels)]).float().mean())
            rows.append(row)
    return pd.DataFrame(rows)


def _refinements(
    given: Sequence[Tensor], engine: str, device: torch.device, single: bool
) -> tuple[Tensor, list[float]]:
    """The refined batch, and seconds: of each image, or of the whole batch some times."""
    parts = [*zip(*(x.split(1) for x in given))] if single else [tuple(given)] * REPEATS
    results: list[Tensor] = []
    dense_crf(*parts[0], engine=engine)
    times = [devices.seconds(lambda p=p: results.append(dense_crf(*p, engine=engine)), device) for p in parts]
    return torch.cat(results) if single else results[0], times


def _compared(
    size: Sequence[int], versions: dict[str, tuple[Version, list[Tensor]]], device: torch.device
) -> list[dict[str, Any]]:
    """Times versions with their inputs, each a row.

    Returns:
        Of each version medians in milliseconds of the forward and the backward pass, bytes kept in between
        and at the peak, and how much faster and leaner it is than the last version, the baseline.
    """
    rows = []
    for name, (function, inputs) in versions.items():
        rows.append(dict(zip("NKHW", size)) | {"version": name} | _time(function, inputs, device))
    baseline = rows[-1]
    for row in rows:
        row["speed_up"] = _total(baseline) / _total(row)
        row["kept_share"] = row["kept_bytes"] / baseline["kept_bytes"]
        row["peak_share"] = row["peak_bytes"] / baseline["peak_bytes"]
    return rows


def _floors(row: dict[str, Any], moved: int, speed: float, latency: float) -> dict[str, float]:
    """What cannot be undercut, in milliseconds: moving bytes at `speed`, and `latency`."""
    floor = 1000 * moved / speed
    return {
        "moved_bytes": moved,
        "gigabytes_per_s": moved / _total(row) / 1e6,
        "copy_gigabytes_per_s": speed / 1e9,
        "bytes_floor_ms": floor,
        "latency_floor_ms": latency,
        "times_floor": _total(row) / max(floor, latency),
    }


def _step(labels: int, device: torch.device) -> float:
    """Milliseconds of one dependent step there and back: what a single chain's next cell costs."""
    totals = []
    for length in (128, 256):
        inputs = _maps((1, labels, 1, length), device)
        rounds = [sum(_round(_factored, inputs, device)) for _ in range(REPEATS + 1)]
        totals.append(min(rounds))
    return max(0.0, 1000 * (totals[1] - totals[0]) / 128 / ITERATIONS)


def copy_speed(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    times = [devices.seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() * 4 / min(times)


def _scores(size: Sequence[int], device: torch.device) -> list[Tensor]:
    n, k, h, w = size
    shapes = [(n, k, h, w), *((n, k, k, h, w - g) for g in GAPS), *((n, k, k, h - g, w) for g in GAPS)]
    return _random(shapes, device)


def _maps(size: Sequence[int], device: torch.device) -> list[Tensor]:
    n, k, h, w = size
    return _random([(n, k, h, w), (n, k, k, h, w), (n, k, k, h, w)], device)


def _random(shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]


def _scenery(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images of smooth shades and noise, and smooth probabilities of labels."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    shades = 255 * torch.rand(n, 3, h // 30, w // 30, generator=generator)
    images = functional.interpolate(shades, (h, w), mode="bilinear")
    images = (images + 6 * torch.randn(n, 3, h, w, generator=generator)).clamp(0, 255).to(torch.uint8)
    logits = 3 * torch.randn(n, k, h // 16, w // 16, generator=generator)
    return images, functional.interpolate(logits, (h, w), mode="bilinear").softmax(1)


def _segmentation(size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits, and labels that are alike in blocks of 16 × 16, a tenth of them void."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n, h // 16 + 1, w // 16 + 1), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :h, :w].contiguous()
    return _random([tuple(size)], device)[0], labels.to(device)


def _dense(function: Callable[..., Any]) -> Version:
    def logits(unary: Tensor, *scores: Tensor) -> Tensor:
        count = len(GAPS)
        result = function(unary, scores[:count], scores[count:], iterations=ITERATIONS, gamma=GAMMA)
        return result if isinstance(result, Tensor) else result.logits

    return logits


def _factored(unary: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return dual_decomposition_factored(unary, left, right, GAPS, iterations=ITERATIONS, gamma=GAMMA).logits


def _time(function: Version, inputs: Sequence[Tensor], device: torch.device) -> dict[str, float]:
    """Medians of the passes' times after a first, unmeasured round, which measures memory."""
    memory = _memory(function, inputs, device)
    rounds: list[tuple[float, float]] = []
    start = time.monotonic()
    while len(rounds) < 3 or (len(rounds) < REPEATS and time.monotonic() - start < SECONDS):
        rounds.append(_round(function, inputs, device))
    forward, backward = zip(*rounds)
    return {
        "forward_ms": 1000 * statistics.median(forward),
        "backward_ms": 1000 * statistics.median(backward),
        "repeats": len(rounds),
        **memory,
    }


def _round(function: Version, inputs: Sequence[Tensor], device: torch.device) -> tuple[float, float]:
    """Seconds of a forward and a backward pass."""
    result: list[Tensor] = []
    forward = devices.seconds(lambda: result.append(function(*inputs)), device)
    weight = torch.ones_like(result[0])
    return forward, devices.seconds(lambda: torch.autograd.grad(result[0], inputs, weight), device)


def _memory(function: Version, inputs: Sequence[Tensor], device: torch.device) -> dict[str, float]:
    """Bytes kept for the backward pass, the inputs not counted, and bytes at the peak of both passes."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = _resident(device, reset=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(*inputs)
    torch.autograd.grad(result.sum(), inputs)
    return {"kept_bytes": sum(kept.values()), "peak_bytes": _resident(device, reset=False) - before}


def _resident(device: torch.device, reset: bool) -> float:
    """Memory in use now, from where on the peak is counted, or that peak; NaN where nobody knows."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            _trim()
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is from now on
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    entry = "VmRSS:" if reset else "VmHWM:"
    return 1024 * float(status.split(entry)[1].split()[0])


def _trim() -> None:
    """Gives freed memory back to the system, or a peak would hide in what earlier peaks have left."""
    with contextlib.suppress(AttributeError, OSError):  # a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _total(row: dict[str, Any]) -> float:
    return row["forward_ms"] + row["backward_ms"]


def write(
    folder: Path,
    device: torch.device,
    chain_sizes: Sequence[Sequence[int]] = CHAIN_SIZES,
    rmi_sizes: Sequence[Sequence[int]] = RMI_SIZES,
    densecrf_sizes: Sequence[Sequence[int]] = DENSECRF_SIZES,
) -> None:
    """Times everything and writes `<family>.csv` and `kernels.md` into a folder."""
    provenance = record(devices.describe(device))
    families = {
        "chain": chain(device, chain_sizes),
        "rmi": rmi(device, rmi_sizes),
        "densecrf": densecrf(device, densecrf_sizes),
    }
    for name, table in families.items():
        table["device"], table["threads"] = provenance["device"], torch.get_num_threads()
        table["torch"], table["commit"] = provenance["packages"]["torch"], provenance["commit"]
        with replacing(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    with replacing(folder / "kernels.md") as file:
        file.write(markdown(families))


COLUMNS = {
    "forward_ms": ("forward ms", 1, "{:.1f}"),
    "backward_ms": ("backward ms", 1, "{:.1f}"),
    "image_ms": ("ms per image", 1, "{:.1f}"),
    "images_per_s": ("images/s", 1, "{:.2f}"),
    "speed_up": ("faster than the last", 1, "{:.1f}×"),
    "kept_bytes": ("kept MB", 1e6, "{:.1f}"),
    "peak_bytes": ("peak MB", 1e6, "{:.1f}"),
    "gigabytes_per_s": ("GB/s", 1, "{:.2f}"),
    "bytes_floor_ms": ("bytes floor ms", 1, "{:.2f}"),
    "latency_floor_ms": ("latency floor ms", 1, "{:.2f}"),
    "times_floor": ("× larger floor", 1, "{:.1f}"),
    "agreement": ("same labels %", 0.01, "{:.3f}"),
}
"""Of the page: title, unit and form of every column."""


def markdown(families: dict[str, pd.DataFrame]) -> str:
    """All families of kernels as a page to read."""
    parts = ["# Kernels"]
    for name, table in families.items():
        first = table.iloc[0]
        parts.append(f"## {name}\n\n{first['device']}, torch {first['torch']}")
        cells = pd.DataFrame(
            {"N, K, H, W": [", ".join(str(row[x]) for x in "NKHW") for row in table.to_dict("records")]}
        )
        cells["version"] = table["version"]
        for column, (title, unit, form) in COLUMNS.items():
            if column in table:
                cells[title] = (table[column] / unit).map(form.format)
        parts.append(
            tabulate(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)
        )
    parts.append(
        "Medians; the versions of one size were timed in one process, one after the other. kept: memory "
        "held between the forward and the backward pass besides the inputs; peak: memory that both passes "
        "need at most besides the inputs. bytes floor: the time to copy what any version must move at the "
        "measured speed of a large copy; GB/s: these bytes over the measured time. latency floor: the steps "
        "that depend on each other, in the time that one of them takes in a single chain."
    )
    return "\n\n".join(parts) + "\n"


def _main() -> None:
    parsed = stages.arguments("Times the kernels against what they replace.")
    folder = Path(parsed.config["results"]) / "kernels"
    with (
        stages.recording_failure(folder / "error.json", "kernels"),
        devices.leased(parsed.config["execution"]["device"]) as device,
    ):
        write(folder, device)
    print(folder / "kernels.md")


if __name__ == "__main__":
    stages.main(_main)
