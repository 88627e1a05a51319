"""Command `status`: what is done, running, waiting and failed, from the files that the runs write.

It reads only, so it may be asked at any time, beside a running workflow.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tabulate import tabulate

from common.errors import UnreadableRecord
from common.failures import Failure
from common.runs.jobs import Run, TrainedRun, Training
from common.runs.plan import Benchmark
from common.runs.records import LogLine, read_log
from common.stages import entry

PATIENCE = 120.0
"""Training has stopped if its log had no line for so many seconds, and for five times the last interval."""


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        run: The run.
        state: waiting, training, interrupted, trained, evaluated, done or failed.
        iteration: How many iterations of its training are done.
        iterations: How many it has; 0 if there is no training.
        iterations_per_s: Speed of its training; None unless it is training.
        seconds_left: Of its training; None unless it is training.
        note: What there is to say, such as the reason of a failure.
    """

    run: Run
    state: str
    iteration: int = 0
    iterations: int = 0
    iterations_per_s: float | None = None
    seconds_left: float | None = None
    note: str = ""

    def failed(self, failure: Failure) -> Progress:
        """A run that has come so far and failed."""
        return dataclasses.replace(
            self, state="failed", iterations_per_s=None, seconds_left=None, note=failure.error
        )


def status(benchmark: Benchmark) -> list[Progress]:
    """Where every run of the benchmark is."""
    return [_of_trained(run) if isinstance(run, TrainedRun) else _of_read(run) for run in benchmark.runs]


def _of_trained(run: TrainedRun) -> Progress:
    """Where a run is whose model is trained here."""
    training = run.training
    total = training.settings.iterations
    note = f"uses the model of {training.method}" if training.method != run.method else ""
    finished = Progress(run, "done", total, total, note=note)
    if run.cost.exists() and run.metrics.exists():
        return finished
    if run.metrics.exists():
        progress = dataclasses.replace(finished, state="evaluated")
    elif training.file.exists():
        progress = dataclasses.replace(finished, state="trained")
    else:
        progress = _of_training(training, Progress(run, "waiting", 0, total, note=note))
    for path in (run.data.error, training.error, run.error):
        # A failed training that is tried again has a younger log.
        if progress.state == "training" and path.exists() and _age(path) > _age(training.log):
            continue
        failure = Failure.last(path)
        if failure:
            return progress.failed(failure)
    return progress


def _of_training(training: Training, waiting: Progress) -> Progress:
    """Where a run is that has no trained model yet, from the log of its training; `waiting` without one."""
    try:
        lines = read_log(training.log)
    except UnreadableRecord:
        return waiting
    if not lines:
        begun = _age(training.log) < PATIENCE
        return dataclasses.replace(waiting, state="training" if begun else "interrupted")
    last = lines[-1]
    if _age(training.log) > max(PATIENCE, 5 * _interval(lines)):
        return dataclasses.replace(waiting, state="interrupted", iteration=last.iteration)
    settings = training.settings
    speed = last.images_per_second / (settings.batch_size * settings.accumulate)
    return dataclasses.replace(
        waiting,
        state="training",
        iteration=last.iteration,
        iterations_per_s=speed,
        seconds_left=(settings.iterations - last.iteration) / speed if speed else None,
    )


def _interval(lines: Sequence[LogLine]) -> float:
    """Seconds between the last two lines of a log."""
    return lines[-1].seconds - (lines[-2].seconds if len(lines) > 1 else 0)


def _of_read(run: Run) -> Progress:
    """Where a run is whose predictions are read from a folder."""
    if run.metrics.exists():
        return Progress(run, "done", note="read from a folder")
    progress = Progress(run, "waiting", note="read from a folder")
    failure = Failure.last(run.error)
    return progress.failed(failure) if failure else progress


def _age(path: Path) -> float:
    """Seconds since a file was last written."""
    return time.time() - path.stat().st_mtime


def status_text(runs: Sequence[Progress]) -> str:
    """Where runs are as a table, with a line that counts the states."""
    lines = []
    for progress in runs:
        run, speed, left = progress.run, progress.iterations_per_s, progress.seconds_left
        lines.append(
            {
                "dataset": run.dataset,
                "model": run.model,
                "method": run.method,
                "seed": run.seed,
                "state": progress.state,
                "iteration": f"{progress.iteration} / {progress.iterations}",
                "it/s": "" if speed is None else f"{speed:.2f}",
                "left": "" if left is None else str(timedelta(seconds=round(left))),
                "note": progress.note,
            }
        )
    counts = Counter(progress.state for progress in runs)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{tabulate(lines, headers='keys', tablefmt='simple')}\n\n{summary}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration."""
    entry.add_configuration(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prints where the configuration's runs are."""
    print(status_text(status(entry.benchmark(arguments))))
