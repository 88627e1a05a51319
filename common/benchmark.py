"""Stage `kernels`: times the project's kernels side by side with what they replace.

Writes one CSV per family of kernels and a Markdown page that gathers them. The family `chain` is the
dual decomposition of methods/ddcrf.py, as kernels (with pairwise scores per edge, and factored), in plain
PyTorch, and as a loop over single steps in the style of the published code.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
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

from common import devices, stages
from common.files import replacing
from common.provenance import record
from methods.ddcrf import dual_decomposition, dual_decomposition_factored, dual_decomposition_reference

SIZES = ((2, 21, 33, 33), (8, 21, 33, 33), (8, 11, 30, 30), (1, 19, 65, 129))
"""N, K, h, w: VOC at training size, CamVid, Cityscapes."""

GAPS = (1, 2)
ITERATIONS = 5
GAMMA = 2.0
REPEATS = 7
SECONDS = 20.0
"""A version is timed `REPEATS` times, or until this time has passed, but three times at least."""

Version = Callable[..., Tensor]


def chain(device: torch.device, sizes: Sequence[Sequence[int]] = SIZES) -> pd.DataFrame:
    """Times the versions of the dual decomposition, gaps 1 and 2, 5 iterations, float32, γ = 2.

    Returns:
        A row for every size and version: medians in milliseconds of the forward and the backward pass,
        bytes kept in between and at the peak, and both with respect to the floor, which is the
        time to copy the bytes that any version must move: scores in and logits out, then scores and
        the logits' derivative in and those of the scores out.
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
        for name, (function, inputs) in versions.items():
            times = _time(function, inputs, device)
            moved = 4 * (3 * sum(x.numel() for x in inputs) + 2 * inputs[0].numel())
            total = times["forward_ms"] + times["backward_ms"]
            floor = 1000 * moved / speed
            rows.append(
                dict(zip("NKhw", size))
                | {"version": name}
                | times
                | {
                    "moved_bytes": moved,
                    "gigabytes_per_s": moved / total / 1e6,
                    "copy_gigabytes_per_s": speed / 1e9,
                    "floor_ms": floor,
                    "times_floor": total / floor,
                }
            )
        for row in rows[-len(versions) :]:
            row["speed_up_over_loop"] = _total(rows[-1]) / _total(row)
            row["kept_share_of_loop"] = row["kept_bytes"] / rows[-1]["kept_bytes"]
    return pd.DataFrame(rows)


def copy_speed(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    times = [devices.seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() * 4 / min(times)


def per_step_loop(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    *,
    iterations: int = ITERATIONS,
    gamma: float = GAMMA,
) -> Tensor:
    """The logits of `dual_decomposition` as the published code computes them, with autograd.

    Sub-grid by sub-grid, step by step, each direction on its own; `gamma` must be positive.
    """
    count = 2 * len(horizontal)
    theta = [unary / count] * count
    step = 1 / max(unary.shape[2:])
    for _ in range(iterations):
        found = []
        for index, scores in enumerate((*horizontal, *vertical)):
            gap, turned = index % len(horizontal) + 1, index >= len(horizontal)
            cells, pairs = theta[index], scores
            if turned:
                cells, pairs = cells.transpose(2, 3), pairs.transpose(3, 4)
            marginals = torch.zeros_like(cells)
            for row, column in itertools.product(range(gap), repeat=2):
                part = (..., slice(row, None, gap), slice(column, None, gap))
                if cells[part].numel():
                    marginals[part] = _walk(cells[part], pairs[part], gamma)
            found.append(marginals.transpose(2, 3) if turned else marginals)
        total = sum(found)
        theta = [t - step * (m - total / count) for t, m in zip(theta, found)]
    return total


def _walk(cells: Tensor, pairs: Tensor, gamma: float) -> Tensor:
    length = cells.shape[-1]
    ahead, behind = [cells[..., 0]], [cells[..., -1]]
    for i in range(length - 1):
        reach = (pairs[..., i] + ahead[-1].unsqueeze(2)) / gamma
        ahead.append(cells[..., i + 1] + gamma * torch.logsumexp(reach, dim=1))
        j = length - 2 - i
        reach = (pairs[..., j] + behind[-1].unsqueeze(1)) / gamma
        behind.append(cells[..., j] + gamma * torch.logsumexp(reach, dim=2))
    return torch.stack(ahead, dim=-1) + torch.stack(behind[::-1], dim=-1) - cells


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


def write(folder: Path, device: torch.device, sizes: Sequence[Sequence[int]] = SIZES) -> None:
    """Times everything and writes `<family>.csv` and `kernels.md` into a folder."""
    table = chain(device, sizes)
    provenance = record(devices.describe(device))
    table["device"], table["threads"] = provenance["device"], torch.get_num_threads()
    table["torch"], table["commit"] = provenance["packages"]["torch"], provenance["commit"]
    with replacing(folder / "chain.csv") as file:
        table.to_csv(file, index=False)
    with replacing(folder / "kernels.md") as file:
        file.write(markdown({path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}))


def markdown(families: dict[str, pd.DataFrame]) -> str:
    """All families of kernels as a page to read."""
    parts = ["# Kernels"]
    for name, table in families.items():
        first = table.iloc[0]
        parts.append(
            f"## {name}\n\n{first['device']}, {first['threads']} CPU threads, torch {first['torch']}"
        )
        cells = pd.DataFrame(
            {
                "N, K, h, w": [", ".join(str(row[x]) for x in "NKhw") for row in table.to_dict("records")],
                "version": table["version"],
                "forward ms": table["forward_ms"].map("{:.1f}".format),
                "backward ms": table["backward_ms"].map("{:.1f}".format),
                "faster than the loop": table["speed_up_over_loop"].map("{:.1f}×".format),
                "kept MB": (table["kept_bytes"] / 1e6).map("{:.1f}".format),
                "peak MB": (table["peak_bytes"] / 1e6).map("{:.1f}".format),
                "GB/s": table["gigabytes_per_s"].map("{:.2f}".format),
                "floor ms": table["floor_ms"].map("{:.1f}".format),
                "× floor": table["times_floor"].map("{:.1f}".format),
            }
        )
        parts.append(
            tabulate(cells, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)
        )
    parts.append(
        "Medians; the versions of one size were timed in one process, one after the other. kept: memory "
        "held between the forward and the backward pass besides the inputs; peak: memory that both passes "
        "need at most besides the inputs. floor: the time to copy what any version must move at the measured "
        "speed of a large copy; GB/s: these bytes over the measured time."
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
