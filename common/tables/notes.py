"""What a reader must know before comparing rows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from common.runs.records import Cost, Metrics
from common.tables.results import ControlRow, Row


def notes(rows: Sequence[Row], controls: Sequence[ControlRow], compared: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing rows.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
        compared: The comparisons with the baseline.
    """
    scores = [metrics for row in rows for metrics in row.scores]
    measured = [cost for row in rows for cost in row.costs]
    return [
        *_code(scores, measured),
        *_data(rows, controls),
        *_weights(rows),
        *_batches(rows),
        *_devices(measured),
        *_uncompared(compared),
    ]


def _code(scores: Sequence[Metrics], measured: Sequence[Cost]) -> list[str]:
    """Whether commits and versions differ."""
    origins = [metrics.provenance for metrics in scores] + [cost.provenance for cost in measured]
    origins += [metrics.trained.provenance for metrics in scores if metrics.trained]
    commits = {origin.commit for origin in origins}
    notes = []
    if len(commits) > 1:
        listed = ", ".join(sorted(str(commit)[:10] for commit in commits))
        notes.append(f"WARNING: rows come from different commits of the code: {listed}.")
    elif commits and str(next(iter(commits))).endswith("+changes"):
        notes.append("The code had uncommitted changes.")
    if len({origin.packages.get("torch") for origin in origins}) > 1:
        notes.append("WARNING: rows were computed with different versions of PyTorch.")
    return notes


def _data(rows: Sequence[Row], controls: Sequence[ControlRow]) -> list[str]:
    """Which datasets had other files in one row than in another."""
    contents: dict[str, set[str]] = {}
    for row in rows:
        digests = contents.setdefault(row.dataset, set())
        digests |= {metrics.content_sha256 for metrics in row.scores}
        digests |= {metrics.trained.content_sha256 for metrics in row.scores if metrics.trained}
    for control in controls:
        contents.setdefault(control.dataset, set()).update(control.values("content_sha256"))
    return [
        f"WARNING: rows of {dataset} saw different files of the dataset."
        for dataset, digests in contents.items()
        if len(digests) > 1
    ]


def _weights(rows: Sequence[Row]) -> list[str]:
    """Which models started from other weights in one row than in another."""
    weights: dict[str, set[str | None]] = {}
    for row in rows:
        trained = [metrics.trained for metrics in row.scores if metrics.trained]
        weights.setdefault(row.model, set()).update(facts.weights_sha256 for facts in trained)
    return [
        f"WARNING: rows of {model} started from different files of weights."
        for model, digests in weights.items()
        if len(digests) > 1
    ]


def _batches(rows: Sequence[Row]) -> list[str]:
    """Where training steps do not compare."""
    batches: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        batches.setdefault(row.group.key, set()).update(cost.training_batch for cost in row.costs)
    return [
        f"WARNING: training steps of {model} on {dataset} were measured with batches of different sizes "
        "(execution.gpus_per_run): delete their cost.json and run again to compare them."
        for (dataset, model), sizes in batches.items()
        if len(sizes) > 1
    ]


def _devices(measured: Sequence[Cost]) -> list[str]:
    """What times were measured on."""
    devices = sorted({cost.device for cost in measured})
    if len(devices) > 1:
        return [
            f"WARNING: times come from different devices: {'; '.join(devices)}. A table shows those of one "
            "device, and a dash for what was measured elsewhere; all are in cost.csv."
        ]
    return [f"Times measured on: {devices[0]}."] if devices else []


def _uncompared(compared: pd.DataFrame) -> list[str]:
    """Which scored methods have no interval over images, and why."""
    unknown = compared[(compared["metric"] == "miou") & (compared["seeds"] > 0) & (compared["images"] == 0)]
    return [
        f"No reading of {', '.join(group['method'])} ({dataset}, {model}): {note}."
        for (dataset, model, note), group in unknown.groupby(["dataset", "model", "note"], sort=False)
    ]
