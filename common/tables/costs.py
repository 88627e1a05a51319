"""What runs cost, as tables show it: never numbers of different devices in one column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.runs.records import Cost
from common.tables.results import Row, newest

MEASURED = (
    "network_ms",
    "structure_ms",
    "refine_ms",
    "latency_ms",
    "network_p95_ms",
    "structure_p95_ms",
    "refine_p95_ms",
    "latency_p95_ms",
    "throughput",
    "throughput_batch",
)
"""Attributes of a `Cost` that depend on the device."""

TRAINING = ("training_step_ms", "training_images_per_second", "training_peak_memory")
"""Attributes that say what the training of the model costs; they depend on the device, too."""

COUNTED = ("parameters", "multiply_adds")
"""Attributes that do not depend on the device."""

SEEN = 0.05
"""The share of the latency that a refinement takes at least that does something."""

SPREAD = ("latency_q1_ms", "latency_q3_ms", "training_step_q1_ms", "training_step_q3_ms")
"""Columns with the lower and upper quartiles of the repeated timings."""


def training_costs(rows: Sequence[Row]) -> list[list[Cost]]:
    """For every row the costs of all rows whose models are trained the same way."""
    costs_of: dict[Any, list[Cost]] = {}
    for row in rows:
        costs_of.setdefault(row.trained_as, []).extend(row.costs)
    return [newest(costs_of[row.trained_as]) for row in rows]


def training_minutes(rows: Sequence[Row], device: str) -> list[float]:
    """For every row the minutes that everything takes on a device that is trained for it; NaN where unknown.

    That is its own training, what that starts from, and all members of an ensemble.

    Args:
        rows: Of one dataset and model.
        device: The name of the device.
    """
    steps = {
        row.trained_as: float(np.median(times))
        for row, costs in zip(rows, training_costs(rows))
        if (times := [cost.training_step_ms for cost in costs if cost.device == device])
    }
    return [_minutes(row, steps, device) if row.trainings and row.costs else math.nan for row in rows]


def _minutes(row: Row, steps: Mapping[Any, float], device: str) -> float:
    """The minutes of all trainings of a row.

    Args:
        row: The row.
        steps: The milliseconds of a step, by what is trained, as `Row.trained_as` names it.
        device: The device; what no row is trained as was measured there with the row itself.
    """
    there = (part for cost in row.costs if cost.device == device for part in cost.training_parts)
    own = {part.method: part.step_ms for part in there}
    milliseconds = 0.0
    for training in row.trainings:
        step = steps.get((training.dataset, training.model, training.method), own.get(training.method))
        milliseconds += training.settings.iterations * (math.nan if step is None else step)
    return milliseconds / 60_000


def medians(costs: Sequence[Cost], training: Sequence[Cost], device: str) -> dict[str, float]:
    """The median over seeds of every number, on one device if it depends on that, and `SPREAD`; NaN without.

    Args:
        costs: Of the runs of one row.
        training: Of all runs whose models are trained the same way: they measured the same training.
        device: The name of the device.
    """
    there = [cost for cost in costs if cost.device == device]
    trained = [cost for cost in training if there and cost.device == device]
    result = {}
    for keys, chosen in ((MEASURED, there), (TRAINING, trained), (COUNTED, costs)):
        for key in keys:
            values = [x for x in (getattr(cost, key) for cost in chosen) if x is not None]
            result[key] = float(np.median(values)) if values else math.nan
    inferences = [time for cost in there for time in cost.inference_timings["latency"]]
    steps = [time for cost in trained for time in cost.training_timings]
    return result | dict(zip(SPREAD, [*_quartiles(inferences), *_quartiles(steps)]))


def uncounted(costs: Sequence[Cost]) -> str:
    """What multiply-adds leave out of inference, in words; empty if that is nothing worth mentioning.

    That is the project's own operations, and a refinement that takes a share of the latency that is seen.
    """
    names = sorted({name for cost in costs for name in cost.uncounted_operations})
    if any(cost.refine_ms > SEEN * cost.latency_ms for cost in costs):
        names.append("refinement")
    return ", ".join(names)


def _quartiles(timings: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile of timings; NaN without any."""
    if not timings:
        return math.nan, math.nan
    low, high = np.percentile(timings, [25, 75])
    return float(low), float(high)


def main_device(rows: Mapping[str, Sequence[Cost]], baseline: str) -> str:
    """The device whose times a table shows: on which most methods were measured, and the baseline if so.

    Args:
        rows: The costs of every method of the table.
        baseline: The method that the others are compared with.

    Returns:
        Its name; empty if nothing was measured.
    """
    methods = {name: {cost.device for cost in costs} for name, costs in rows.items()}
    counts = Counter(device for devices in methods.values() for device in devices)
    if not counts:
        return ""
    return min(counts, key=lambda device: (-counts[device], device not in methods.get(baseline, ()), device))


def pareto(accuracy: Sequence[float], cost: Sequence[float], doubtful: Sequence[bool]) -> list[bool | None]:
    """Which results no other beats: none is at least as accurate and as cheap, and better in one of both.

    Args:
        accuracy: Of every result; NaN if it is not known.
        cost: Of every result; NaN if it is not known.
        doubtful: Whether its cost is not to be relied on, and may be any.

    Returns:
        A flag for each result, None where it is not known: a number is missing or doubtful, or what beats it
        may be a result of doubtful cost.
    """
    flags: list[bool | None] = []
    for a, c, doubted in zip(accuracy, cost, doubtful):
        others = [*zip(accuracy, cost, doubtful)]
        if math.isnan(a) or math.isnan(c) or doubted:
            flags.append(None)
        elif any(b >= a and d <= c and (b > a or d < c) and not doubt for b, d, doubt in others):
            flags.append(False)
        else:
            flags.append(None if any(b >= a and doubt for b, _, doubt in others) else True)
    return flags


def cost_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per row and device, with what was measured there."""
    lines = []
    for row, training in zip(rows, training_costs(rows)):
        sizes = sorted({size for cost in row.costs for size in cost.image_sizes})
        uncounted = sorted({name for cost in row.costs for name in cost.uncounted_operations})
        for device in sorted({cost.device for cost in row.costs}):
            lines.append(
                {
                    **row.names,
                    "device": device,
                    "recipe": row.costs[0].recipe,
                    "seeds": sum(cost.device == device for cost in row.costs),
                    **medians(row.costs, training, device),
                    "image_sizes": " ".join(sizes),
                    "uncounted_operations": " ".join(uncounted),
                }
            )
    columns = [
        "dataset",
        "model",
        "method",
        "device",
        "recipe",
        "seeds",
        *MEASURED,
        *TRAINING,
        *COUNTED,
        *SPREAD,
    ]
    return pd.DataFrame(lines, columns=[*columns, "image_sizes", "uncounted_operations"])
