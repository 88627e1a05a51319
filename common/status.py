"""Command `status`: what is done, running, waiting and failed, from the files that the runs write.

It reads only, so it may be asked at any time, beside a running workflow.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from common import config as configuration
from common import runs, stages
from common.config import Config
from common.errors import UserError
from common.files import read_json

PATIENCE = 120.0
"""Training has stopped if its log had no line for so many seconds, and for five times the last interval."""


def status(config: Config) -> pd.DataFrame:
    """Where every run of the configuration is.

    Returns:
        A row per run: dataset, model, method, seed, state (waiting, training, interrupted, trained,
        evaluated, done or failed), iteration, iterations, iterations per second and seconds left of its
        training (NaN unless it is training), and what there is to say, such as the reason of a failure.
    """
    return pd.DataFrame([_row(config, run) for run in runs.runs(config)])


def _row(config: Config, run: runs.Run) -> dict[str, Any]:
    training = run.training
    settings = configuration.settings(config, "training", run.dataset, run.model)
    row = {key: getattr(run, key) for key in ("dataset", "model", "method", "seed")}
    if training is None:
        return row | _of_predictions(run)
    row |= {"state": "waiting", "iteration": 0, "iterations": settings["iterations"]}
    row |= {"iterations_per_s": float("nan"), "seconds_left": float("nan"), "note": ""}
    if training.method != run.method:
        row["note"] = f"uses the model of {training.method}"
    finished = {"iteration": settings["iterations"]}
    if run.cost.exists() and run.metrics.exists():
        return row | finished | {"state": "done"}
    if run.metrics.exists():
        row |= finished | {"state": "evaluated"}
    elif training.file.exists():
        row |= finished | {"state": "trained"}
    elif training.log.exists():
        row |= _progress(training, settings)
    failures = (training.manifest.error, training.folder / "error.json", run.folder / "error.json")
    for path in failures:
        # A failed training that is tried again has a younger log.
        if row["state"] == "training" and path.exists() and _age(path) > _age(training.log):
            continue
        if reason := _reason(path):
            unknown = {"iterations_per_s": float("nan"), "seconds_left": float("nan")}
            return row | unknown | {"state": "failed", "note": reason}
    return row


def _of_predictions(run: runs.Run) -> dict[str, Any]:
    """The rest of the row of predictions that are read from a folder."""
    row = {"state": "done" if run.metrics.exists() else "waiting", "iteration": 0, "iterations": 0}
    row |= {"iterations_per_s": float("nan"), "seconds_left": float("nan"), "note": "read from a folder"}
    reason = _reason(run.folder / "error.json")
    return row | ({"state": "failed", "note": reason} if reason and row["state"] == "waiting" else {})


def _reason(path: Path) -> str | None:
    try:
        return read_json(path)["error"]
    except UserError:  # there is none, or it is being written
        return None


def _progress(training: runs.Training, settings: dict[str, Any]) -> dict[str, Any]:
    """Of a training that has begun: what the last line of its log says."""
    lines = []
    for line in training.log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last one may be half written
            lines.append(json.loads(line))
    if not lines:
        return {"state": "training" if _age(training.log) < PATIENCE else "interrupted"}
    last = lines[-1]
    between = last["seconds"] - (lines[-2]["seconds"] if len(lines) > 1 else 0)
    if _age(training.log) > max(PATIENCE, 5 * between):
        return {"state": "interrupted", "iteration": last["iteration"]}
    speed = last["images_per_second"] / (settings["batch_size"] * settings["accumulate"])
    return {
        "state": "training",
        "iteration": last["iteration"],
        "iterations_per_s": speed,
        "seconds_left": (settings["iterations"] - last["iteration"]) / speed,
    }


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def report(table: pd.DataFrame) -> str:
    """The table as a text, with a line that counts the states."""
    cells = table[["dataset", "model", "method", "seed", "state"]].copy()
    cells["iteration"] = [f"{row.iteration} / {row.iterations}" for row in table.itertuples()]
    cells["it/s"] = table["iterations_per_s"].map("{:.2f}".format).replace("nan", "")
    cells["left"] = table["seconds_left"].map(
        lambda seconds: "" if pd.isna(seconds) else str(timedelta(seconds=round(seconds)))
    )
    cells["note"] = table["note"]
    counts = Counter(table["state"])
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{tabulate(cells, headers='keys', tablefmt='simple', showindex=False)}\n\n{summary}"


def _main() -> None:
    print(report(status(stages.arguments("Says where every run is.").config)))


if __name__ == "__main__":
    stages.main(_main)
