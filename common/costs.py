"""What runs cost, as tables show it: never numbers of different devices in one column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

PARTS = ("network_ms", "structure_ms", "refine_ms")

MEASURED = (
    *PARTS,
    "latency_ms",
    "network_p95_ms",
    "structure_p95_ms",
    "refine_p95_ms",
    "latency_p95_ms",
    "throughput",
    "throughput_batch",
)
"""Entries of `cost.json` that depend on the device."""

TRAINING = ("training_step_ms", "training_images_per_second", "training_peak_memory")
"""Those that say what the training of the model costs."""

COUNTED = ("parameters", "multiply_adds")
"""Those that do not."""

Cost = Mapping[str, Any]


def device_of(cost: Cost) -> str:
    """The device that a cost was measured on."""
    return cost["provenance"]["device"]


def value(cost: Cost, key: str) -> float | None:
    """An entry of `cost.json`; None where it has none. Old files have less, of which some can be derived."""
    found = cost.get(key)
    if found is None and key == "latency_ms":
        parts = [cost.get(part) for part in PARTS]
        return None if None in parts else sum(parts)
    if found is None and key == "training_images_per_second" and cost.get("training_batch"):
        return 1000 * cost["training_batch"] / cost["training_step_ms"]
    return found


def medians(costs: Sequence[Cost], training: Sequence[Cost], device: str) -> dict[str, float]:
    """The median over seeds of every entry, on one device if it depends on that; NaN without any.

    Args:
        costs: Of the runs of one row.
        training: Of all runs whose models are trained the same way: they measured the same training.
        device: Which one.
    """
    there = [cost for cost in costs if device_of(cost) == device]
    trained = [cost for cost in training if there and device_of(cost) == device]
    found = {}
    for keys, chosen in ((MEASURED, there), (TRAINING, trained), (COUNTED, costs)):
        for key in keys:
            values = [x for x in (value(cost, key) for cost in chosen) if x is not None]
            found[key] = float(np.median(values)) if values else math.nan
    return found


def main_device(rows: Mapping[str, Sequence[Cost]], baseline: str) -> str:
    """The device whose times a table shows: on which most methods were measured, and the baseline if so.

    Args:
        rows: The costs of every method of the table.
        baseline: The method that the others are compared with.

    Returns:
        Its name; empty if nothing was measured.
    """
    methods = {name: {device_of(cost) for cost in costs} for name, costs in rows.items()}
    counts = Counter(device for devices in methods.values() for device in devices)
    if not counts:
        return ""
    return min(counts, key=lambda device: (-counts[device], device not in methods.get(baseline, ()), device))


def pareto(accuracy: Sequence[float], cost: Sequence[float]) -> list[bool | None]:
    """Which results no other beats: none is at least as accurate and as cheap, and better in one of both.

    Returns:
        A flag for each result, None where a number is missing.
    """
    flags: list[bool | None] = []
    for a, c in zip(accuracy, cost):
        if math.isnan(a) or math.isnan(c):
            flags.append(None)
        else:
            flags.append(not any(b >= a and d <= c and (b > a or d < c) for b, d in zip(accuracy, cost)))
    return flags


def table(rows: Iterable[tuple[dict[str, Any], Sequence[Cost], Sequence[Cost]]]) -> pd.DataFrame:
    """One line per row and device, with what was measured there.

    Args:
        rows: For every row of the leaderboard what it is, its costs, and those of its training (`medians`).
    """
    lines = []
    for names, costs, training in rows:
        for device in sorted({device_of(cost) for cost in costs}):
            seeds = sum(device_of(cost) == device for cost in costs)
            sizes = sorted({size for cost in costs for size in cost.get("image_sizes", ())})
            lines.append(
                {
                    **names,
                    "device": device,
                    "seeds": seeds,
                    **medians(costs, training, device),
                    "image_sizes": " ".join(sizes),
                    "uncounted_operations": " ".join(
                        sorted({name for cost in costs for name in cost.get("uncounted_operations", ())})
                    ),
                }
            )
    columns = ["dataset", "model", "method", "device", "seeds", *MEASURED, *TRAINING, *COUNTED]
    return pd.DataFrame(lines, columns=[*columns, "image_sizes", "uncounted_operations"])
