"""Time and memory of forward and backward passes, and the floors that they cannot undercut."""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.machine import devices
from common.timing.cases import Bench, Timing
from common.timing.clock import enough

Function = Callable[..., Tensor]
"""From inputs to one tensor, with a gradient."""


class Version(NamedTuple):
    """One of several functions that compute the same.

    Attributes:
        function: The function.
        inputs: What it is called with; all of them have a gradient.
    """

    function: Function
    inputs: list[Tensor]


def cost(version: Version, bench: Bench) -> Timing:
    """What the passes of a version cost, after a first, unmeasured round, which measures memory.

    Returns:
        Medians in milliseconds of the forward and the backward pass, and bytes kept in between and at the
        peak.
    """
    function, inputs = version
    memory = _memory(function, inputs, bench.device)
    rounds: list[tuple[float, float]] = []
    start = time.monotonic()
    while not enough(len(rounds), bench.effort.passes, start):
        rounds.append(seconds_of_passes(function, inputs, bench.device))
    forward, backward = zip(*rounds)
    return {
        "forward_ms": 1000 * statistics.median(forward),
        "backward_ms": 1000 * statistics.median(backward),
        "repeats": len(rounds),
        **memory,
    }


def floors(milliseconds: float, moved: int, speed: float, latency: float = 0.0) -> Timing:
    """What a version cannot undercut.

    Args:
        milliseconds: What it takes.
        moved: Bytes that it must move.
        speed: Of a copy, in bytes per second.
        latency: Of the steps that depend on each other, in milliseconds; 0 if there are none.
    """
    floor = 1000 * moved / speed
    row: Timing = {
        "moved_bytes": moved,
        "gigabytes_per_s": moved / milliseconds / 1e6,
        "bytes_floor_ms": floor,
        "times_floor": milliseconds / max(floor, latency),
    }
    return row | {"latency_floor_ms": latency} if latency else row


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


def _memory(function: Function, inputs: Sequence[Tensor], device: torch.device) -> Timing:
    """Bytes kept for the backward pass, the inputs not counted, and bytes at the peak of both passes."""
    own = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        """Notes the memory of a tensor that the backward pass needs."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = resident(device, reset=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(*inputs)
    torch.autograd.grad(result.sum(), inputs)
    return {"kept_bytes": sum(kept.values()), "peak_bytes": resident(device, reset=False) - before}


def resident(device: torch.device, reset: bool) -> float:
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
