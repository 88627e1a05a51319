"""How often something is timed, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from common.machine import devices

Value = TypeVar("Value")

WARM_UP = 5
"""So many inferences or steps come before those that are timed."""

LEAST_SECONDS = 1.0
"""Each measurement of a run takes this long at least: what disturbs its first moments is no median."""

SECONDS = 8.0
"""Each measurement ends after this time, once it has three values: the three of a run take half a minute."""


def timed(function: Callable[[], Value], device: torch.device) -> tuple[Value, float]:
    """What a function returns, and its wall time in seconds, the device's queue emptied before and after."""
    results: list[Value] = []
    seconds = devices.seconds(lambda: results.append(function()), device)
    return results[0], seconds


def enough(count: int, aim: int, start: float, least: float = 0.0) -> bool:
    """Whether a measurement has as many values as are wanted, or has taken long enough.

    Args:
        count: How many values it has.
        aim: How many are wanted.
        start: When it began, in the seconds of `time.monotonic`.
        least: How many seconds it goes on for if it has as many values as are wanted before.
    """
    passed = time.monotonic() - start
    return (count >= aim and passed >= least) or (count >= 3 and passed > SECONDS)


def rounded(values: Iterable[float]) -> list[float]:
    """Timings in milliseconds as records keep them: to tenths of a microsecond."""
    return [round(value, 4) for value in values]
