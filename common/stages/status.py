"""Command `status`: what is done, running, waiting and failed, from the files that the runs write.

It reads only, so it may be asked at any time, beside a running workflow.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tabulate import tabulate

from common.errors import UnreadableRecord, UserError
from common.failures import Failure
from common.runs.benchmark import Benchmark
from common.runs.jobs import Run, TrainedRun, Training
from common.runs.records import Cost, LogLine, read_log
from common.runs.soundness import quick
from common.stages import entry

_ALIGN = {"seed": "right", "it/s": "right"}
"""Of columns that are not aligned to the left."""

PATIENCE = 120.0
"""Training has stopped if its log had no line for so many seconds, and for five times the last interval."""


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        run: The run.
        state: waiting, training, interrupted, trained, scored, done, failed or damaged.
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
    """Where every run of the benchmark is.

    The records are read, and the sizes of other files compared with what these say.
    """
    return [
        _checked(_of_trained(run) if isinstance(run, TrainedRun) else _of_read(run)) for run in benchmark.runs
    ]


def _checked(progress: Progress) -> Progress:
    """Where a run is, unless its files are not as they were written."""
    faults = quick(progress.run)
    return dataclasses.replace(progress, state="damaged", note="; ".join(faults)) if faults else progress


def _of_trained(run: TrainedRun) -> Progress:
    """Where a run is whose model is trained here."""
    scored = run.metrics.exists()
    total = sum(one.settings.iterations for one in run.trainings)
    note = _origin(run)
    if scored and run.lost:
        note = "; ".join(filter(None, [note, "its model is gone: `snakemake` trains it again"]))
    finished = Progress(run, "done", total, total, note=note)
    if scored and (not run.measured or run.cost.exists()):
        return finished
    training = _pending(run)
    if scored:
        older = Cost.read_outdated(run)
        left = f"measured by recipe {older.recipe}, not yet by this one" if older else "not measured yet"
        progress = dataclasses.replace(finished, state="scored", note="; ".join(filter(None, [note, left])))
    elif all(member.file.exists() for member in run.members):
        notes = filter(None, [note, "not scored yet"])
        progress = dataclasses.replace(finished, state="trained", note="; ".join(notes))
    else:
        done = sum(one.settings.iterations for one in run.trainings if one.file.exists())
        progress = _of_training(training, Progress(run, "waiting", done, total, note=note))
    for path in (run.data.error, training.error, run.error):
        # A failed training that is tried again has a younger log.
        if progress.state == "training" and path.exists() and _age(path) > _age(training.log):
            continue
        failure = Failure.last(path)
        if failure:
            return progress.failed(failure)
    return progress


def _pending(run: TrainedRun) -> Training:
    """The first training that a run waits for; its own if it waits for none."""
    chains = (member.chain for member in run.members if not member.file.exists())
    return next((one for chain in chains for one in chain if not one.file.exists()), run.training)


def _origin(run: TrainedRun) -> str:
    """Where the model of a run comes from, if not from its own training alone."""
    training = run.training
    if len(run.members) > 1:
        return f"averages {len(run.members)} models of {training.method}"
    if training.method != run.method:
        return f"uses the model of {training.method}"
    return f"starts from the model of {training.start.method}" if training.start else ""


def _of_training(training: Training, waiting: Progress) -> Progress:
    """Where a run is that has no trained model yet, from the log of its training; `waiting` without one."""
    try:
        lines = read_log(training.log)
    except UserError:
        return waiting
    if not lines:
        begun = _age(training.log) < PATIENCE
        return dataclasses.replace(waiting, state="training" if begun else "interrupted")
    last = lines[-1]
    if _age(training.log) > max(PATIENCE, 5 * _interval(lines)):
        done = waiting.iteration + last.iteration
        return dataclasses.replace(waiting, state="interrupted", iteration=done)
    settings = training.settings
    speed = last.images_per_second / (settings.batch_size * settings.accumulate)
    return dataclasses.replace(
        waiting,
        state="training",
        iteration=waiting.iteration + last.iteration,
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
                "iteration": f"{progress.iteration} / {progress.iterations}" if progress.iterations else "",
                "it/s": "" if speed is None else f"{speed:.2f}",
                "left": "" if left is None else str(timedelta(seconds=round(min(left, 1e9)))),
                "note": progress.note,
            }
        )
    counts = Counter(progress.state for progress in runs)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    align = [_ALIGN.get(key, "left") for key in (lines[0] if lines else ())]
    table = tabulate(lines, headers="keys", tablefmt="simple", disable_numparse=True, colalign=align)
    return f"{table}\n\n{summary}"


def skipped_text(benchmark: Benchmark) -> str:
    """What is not run, a line each; empty if everything is."""
    return "\n".join(
        f"skipped: {skip.method} on {skip.dataset} with {skip.model}: {skip.reason}"
        for skip in benchmark.skipped
    )


def others_text(benchmark: Benchmark, runs: Sequence[Progress]) -> str:
    """The results that lie here and are not of the configuration, as a table; empty if there are none.

    Args:
        benchmark: The configuration.
        runs: Where its runs are.
    """
    if not benchmark.others():
        return ""
    from common.tables import others  # with what only this needs, such as pandas

    here = others.list_others(benchmark)
    parts = []
    if here.results:
        cells = others.cells(here.table(benchmark))[
            ["dataset", "model", "method", "seed", "digest", "differs"]
        ]
        parts = [f"{others.TITLE}:", tabulate(cells, headers="keys", tablefmt="simple", showindex=False)]
        if not any(progress.run.metrics.exists() for progress in runs):
            parts.append(
                f"No run of this configuration has a result; {others.origin_sentence(benchmark, here)}."
            )
    parts += [f"left out: {sentence}" for sentence in here.unreadable]
    return "\n\n".join(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, and whether all files are to be read."""
    entry.add_configuration(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read all files of results and say which are not as they were"
    )
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="say it again every so often (10 by default), until all is done or it is interrupted",
    )


def _seconds(text: str) -> float:
    """A time from the command line."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 to a day")
    return seconds


def watch(benchmark: Benchmark, seconds: float) -> None:
    """Prints where the configuration's runs are again and again, until all are done."""
    while True:
        runs = status(benchmark)
        clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
        print(f"{clear}{status_text(runs)}\n", flush=True)
        if all(progress.state == "done" for progress in runs):
            return
        time.sleep(seconds)


def run(arguments: argparse.Namespace) -> None:
    """Prints where the configuration's runs are.

    Raises:
        UnreadableRecord: Files were to be read, and some are damaged or do not belong together.
    """
    benchmark = entry.benchmark(arguments)
    if arguments.watch:
        with contextlib.suppress(KeyboardInterrupt):
            watch(benchmark, arguments.watch)
        return
    runs = status(benchmark)
    parts = [status_text(runs), skipped_text(benchmark), others_text(benchmark, runs)]
    print("\n\n".join(filter(None, parts)), flush=True)
    if arguments.verify:
        from common.tables.soundness import thorough  # with what only this needs, such as PyTorch

        faults = thorough(benchmark)
        if faults:
            listed = "".join(f"\n- {fault}" for fault in faults)
            raise UnreadableRecord(f"{len(faults)} files are not as they were written:{listed}")
        print("\nAll files were read: they are as they were written.")
