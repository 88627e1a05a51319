"""Time and memory of forward and backward passes, and the floors that they cannot undercut."""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import devices
from common.timing.clock import enough

REPEATS = 7
"""How often a version is timed, if there is time for it."""

Function = Callable[..., Tensor]
"""From inputs to one tensor, with a gradient."""

Timing = dict[str, Any]
"""A row of a table of times, by the names of its columns."""


class Version(NamedTuple):
    """One of several functions that compute the same.

    Attributes:
        function: The function.
        inputs: What it is called with; all of them have a gradient.
    """

    function: Function
    inputs: list[Tensor]


def compared(size: Sequence[int], versions: Mapping[str, Version], device: torch.device) -> list[Timing]:
    """Times versions, each a row.

    Args:
        size: N, K, H, W, to be shown.
        versions: By name; the last one is the baseline.
        device: Where the inputs are.

    Returns:
        Of each version medians in milliseconds of the forward and the backward pass, bytes kept in between
        and at the peak, and how much faster and leaner it is than the baseline.
    """
    rows: list[Timing] = []
    for name, version in versions.items():
        cost = _cost(version.function, version.inputs, device)
        rows.append(dict(zip("NKHW", size)) | {"version": name} | cost)
    baseline = rows[-1]
    for row in rows:
        row["speed_up"] = _milliseconds(baseline) / _milliseconds(row)
        row["kept_share"] = row["kept_bytes"] / baseline["kept_bytes"]
        row["peak_share"] = row["peak_bytes"] / baseline["peak_bytes"]
    return rows


def floors(row: Timing, moved: int, speed: float, latency: float) -> Timing:
    """What a version cannot undercut.

    Args:
        row: The version, as of `compared`.
        moved: Bytes that it must move.
        speed: Of a copy, in bytes per second.
        latency: Of the steps that depend on each other, in milliseconds.
    """
    floor = 1000 * moved / speed
    return {
        "moved_bytes": moved,
        "gigabytes_per_s": moved / _milliseconds(row) / 1e6,
        "copy_gigabytes_per_s": speed / 1e9,
        "bytes_floor_ms": floor,
        "latency_floor_ms": latency,
        "times_floor": _milliseconds(row) / max(floor, latency),
    }


def copy_speed(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    times = [devices.seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() * 4 / min(times)


def seconds_of_passes(
    function: Function, inputs: Sequence[Tensor], device: torch.device
) -> tuple[float, float]:
    """Seconds of one forward and one backward pass."""
    results: list[Tensor] = []
    forward = devices.seconds(lambda: results.append(function(*inputs)), device)
    weight = torch.ones_like(results[0])
    return forward, devices.seconds(lambda: torch.autograd.grad(results[0], inputs, weight), device)


def _cost(function: Function, inputs: Sequence[Tensor], device: torch.device) -> Timing:
    """Medians of the passes' times after a first, unmeasured round, which measures memory."""
    memory = _memory(function, inputs, device)
    rounds: list[tuple[float, float]] = []
    start = time.monotonic()
    while not enough(len(rounds), REPEATS, start):
        rounds.append(seconds_of_passes(function, inputs, device))
    forward, backward = zip(*rounds)
    return {
        "forward_ms": 1000 * statistics.median(forward),
        "backward_ms": 1000 * statistics.median(backward),
        "repeats": len(rounds),
        **memory,
    }


def _memory(function: Function, inputs: Sequence[Tensor], device: torch.device) -> Timing:
    """Bytes kept for the backward pass, the inputs not counted, and bytes at the peak of both passes."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        """Notes the memory of a tensor that the backward pass needs."""
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


def _milliseconds(row: Timing) -> float:
    """Milliseconds of the forward and the backward pass together."""
    return row["forward_ms"] + row["backward_ms"]
