"""What is shown while jobs run: what has finished, how long the rest will take, trainings as they go on,
and of a failure its log.

It takes the place of the format of Snakemake's messages; what Snakemake is told to keep quiet stays so.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake import logging as messages
from snakemake_interface_logger_plugins.common import LogEvent

from common.runs.records import JobTimes, read_log

FOLDER = re.compile(r"(models|runs)/(?P<dataset>[^/]+)/(?P<model>[^/]+)/(?P<method>[^/]+)/seed(?P<seed>\d+)-")
"""How the folder of a training or a run tells what it is about."""

SECONDS = 5.0
"""How often the logs of trainings are looked at."""

Iterations = Callable[[Path], int | None]
"""How many iterations the training in a folder has."""


class Progress(logging.Filter):
    """Knows which jobs run, and how long jobs of their kind took."""

    def __init__(self, results: Path) -> None:
        """
        Args:
            results: The folder of all results, with the times of earlier jobs.
        """
        super().__init__()
        self.left: Counter[str] = Counter()
        self.running: dict[int, tuple[str, str, float]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.busy = 0.0
        self.began = time.monotonic()
        self._results = results

    def filter(self, record: Any) -> bool:
        """Takes note of what a message of `logging` tells of jobs; that some are chosen is told to nobody."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            counts = {rule: count for rule, count in record.stats.items() if isinstance(count, int)}
            self.left = Counter(counts)
            self.left.pop("total", None)
        elif event == LogEvent.JOB_INFO:
            paths = [*record.log, *record.output]
            self.running[record.jobid] = (record.rule_name, str(paths[0]) if paths else "", time.monotonic())
        return event != LogEvent.JOB_STARTED and record.msg != "Select jobs to execute..."

    def finished(self, job: int) -> str:
        """Takes note of the end of a job and says what it was.

        Args:
            job: Snakemake's number of it.
        """
        rule, path, began = self.running.pop(job, ("a job", "", time.monotonic()))
        seconds = time.monotonic() - began
        self.seconds.setdefault(rule, []).append(seconds)
        self.busy += seconds
        self.left[rule] -= 1
        return f"{about(rule, path)}: done in {duration(seconds)}"

    def seconds_left(self) -> float | None:
        """How long the rest will take, by the jobs that are done; None before a training is, if one is left.

        Beside trainings all others are short: those of which none is done are taken for the shortest of all.
        """
        durations = self._earlier | self.seconds
        means = {rule: sum(seconds) / len(seconds) for rule, seconds in durations.items()}
        if not means or (self.left["train"] > 0 and "train" not in means):
            return None
        other = min(means.values())
        work = sum(count * means.get(rule, other) for rule, count in self.left.items() if count > 0)
        now = time.monotonic()
        underway = sum(min(now - began, means.get(rule, other)) for rule, _, began in self.running.values())
        together = max(1.0, self.busy / max(now - self.began, 1e-9), len(self.running))
        return max(0.0, work - underway) / together

    @cached_property
    def _earlier(self) -> dict[str, list[float]]:
        """The seconds of jobs of earlier calls, by their rules."""
        seconds: dict[str, list[float]] = {}
        for times in JobTimes.read_all(self._results):
            seconds.setdefault(times.stage, []).append(sum(times.seconds.values()))
        return seconds

    def trainings(self) -> list[Path]:
        """The folders of the trainings that run."""
        return [Path(path).parent for rule, path, _ in [*self.running.values()] if rule == "train"]


class Format(messages.DefaultFormatter):
    """Snakemake's messages, but those about jobs in a line each."""

    def __init__(self, progress: Progress, like: messages.DefaultFormatter) -> None:
        """
        Args:
            progress: What is known of the jobs.
            like: The format whose settings are kept.
        """
        super().__init__(like.quiet, like.show_failed_logs)
        self.progress = progress

    def format_job_finished(self, msg: dict[str, Any]) -> str:
        """A job has ended well."""
        return self.progress.finished(msg["job_id"])

    def format_progress(self, msg: dict[str, Any]) -> str:
        """How far everything is."""
        left = self.progress.seconds_left()
        rest = f", about {duration(left)} left" if left and msg["done"] < msg["total"] else ""
        return f"{msg['done']} of {msg['total']} jobs done{rest}"

    def format_job_error(self, msg: dict[str, Any]) -> str:
        """A job has failed: what it was, and its log, whose end is shown above."""
        self.progress.running.pop(msg["jobid"], None)
        logs = [str(log) for log in msg["log"]]
        return f"{about(msg['rule_name'], *logs[:1])}: failed" + (f"; its log: {logs[0]}" if logs else "")

    def format_group_error(self, msg: dict[str, Any]) -> str:
        """Jobs that were submitted together have failed."""
        return "\n".join(self.format_job_error(info) for info in msg["job_error_info"])


def show(results: Path, iterations: Iterations) -> None:
    """Has Snakemake tell of jobs in these words, and on a terminal of trainings as they go on.

    Args:
        results: The folder of all results.
        iterations: How many iterations the training in a folder has.
    """
    for handler in logging.getLogger(messages.__name__).handlers:
        if isinstance(handler.formatter, messages.DefaultFormatter):
            progress = Progress(results)
            handler.filters.insert(0, progress)
            handler.setFormatter(Format(progress, handler.formatter))
            if sys.stderr.isatty():
                threading.Thread(target=_follow, args=(progress, iterations), daemon=True).start()
            return


def _follow(progress: Progress, iterations: Iterations) -> None:
    """Prints the newest line of the log of every training that runs, as long as this process lives."""
    shown: dict[Path, int] = {}
    while True:
        time.sleep(SECONDS)
        for folder in progress.trainings():
            line = training_line(folder, iterations(folder))
            if line and shown.get(folder) != line[0]:
                shown[folder] = line[0]
                print(line[1], file=sys.stderr, flush=True)


def training_line(folder: Path, iterations: int | None) -> tuple[int, str] | None:
    """How far a training is: the iteration, and a line about it; None if its log has nothing yet.

    Args:
        folder: That of the model.
        iterations: How many it will be; None if that is not known.
    """
    try:
        lines = read_log(folder / "training.jsonl")
    except Exception:  # it is for the eye alone
        return None
    if not lines:
        return None
    last = lines[-1]
    of, left = "", ""
    if iterations and last.iteration:
        of = f" of {iterations}"
        left = f", {duration((iterations - last.iteration) * last.seconds / last.iteration)} left"
    speed = f"loss {last.loss:.4g}, {last.images_per_second:.3g} images/s{left}"
    return last.iteration, f"{about('train', f'{folder}/')}: iteration {last.iteration}{of}, {speed}"


def about(rule: str, path: str = "") -> str:
    """A job in a few words, by the path of one of its files."""
    match = FOLDER.search(path)
    if not match:
        return rule
    return f"{rule} {match['method']}, seed {match['seed']} ({match['dataset']}, {match['model']})"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
