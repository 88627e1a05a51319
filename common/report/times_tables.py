"""Where the time of the jobs went: by stage and method, and how busy every device was meanwhile."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from common.files import digest
from common.phases import COMPUTING, PHASES
from common.report.sortable_tables import Column, SortableTable, TableRow, number, word
from common.runs.benchmark import Benchmark
from common.runs.records import JobTimes

ABOUT = {
    "waiting": "for a device, or for a quiet machine",
    "starting": "imports, and reading the configuration",
    "loading": "data and models; in training, batches that were not there yet",
    "computing": "all else, such as training steps",
    "writing": "results and checkpoints",
}
"""What the phases are."""


def times_of(benchmark: Benchmark) -> list[JobTimes]:
    """Where the time of the jobs of a benchmark went, by when they began."""
    digests = _digests(benchmark)
    return [job for job in JobTimes.read_all(benchmark.outputs.results) if job.digest in digests]


def times_tables(times: Sequence[JobTimes]) -> list[SortableTable]:
    """Seconds by stage and method, and the busy share of every device; none without records.

    Args:
        times: Of all jobs.
    """
    return [by_job(times), by_device(times)] if times else []


def _digests(benchmark: Benchmark) -> set[str]:
    """The digests of all jobs of a benchmark."""
    digests = {digest(benchmark.configuration), *(data.digest for data in benchmark.datasets)}
    digests |= {control.digest for group in benchmark.groups for control in group.controls}
    for run in benchmark.runs:
        digests |= {run.digest, *(training.digest for training in getattr(run, "trainings", ()))}
    return digests


def by_job(times: Iterable[JobTimes]) -> SortableTable:
    """Seconds of every phase, summed over the jobs of a stage, dataset, model and method."""
    words = ("stage", "dataset", "model", "method")
    phases = [Column(phase, f"seconds: {ABOUT[phase]}") for phase in PHASES]
    columns = [*(Column(title, words=True) for title in words), Column("jobs"), *phases, Column("seconds")]
    table = SortableTable("Seconds of all jobs", columns)
    groups: dict[tuple[str, ...], list[JobTimes]] = defaultdict(list)
    for job in times:
        groups[job.stage, job.dataset, job.model or "", job.method or ""].append(job)
    for names, jobs in groups.items():
        seconds = [sum(job.seconds.get(phase, 0.0) for job in jobs) for phase in PHASES]
        numbers = [number(value, 1) for value in (*seconds, sum(seconds))]
        table.rows.append(TableRow([*map(word, names), number(len(jobs), 0), *numbers], names[-1]))
    return table


def by_device(times: Sequence[JobTimes]) -> SortableTable:
    """How busy every device was while there were jobs on its machine."""
    columns = [
        Column("device", words=True),
        Column("jobs"),
        Column("hours with jobs", "in which there were jobs of this benchmark on its machine"),
        Column("hours computing", "of its jobs; of a CPU, times the cores that they had"),
        Column("busy %", "of a GPU, the share of the hours with jobs in which its jobs computed"),
        Column("cores", "of a CPU, how many were computing on average"),
    ]
    table = SortableTable("Devices", columns)
    jobs_of: dict[str, list[JobTimes]] = defaultdict(list)
    for job in times:
        for device in job.devices:
            jobs_of[device].append(job)
    for device, jobs in sorted(jobs_of.items()):
        machine = f"{device.partition(': ')[0]}: "
        there = [job for job in times if any(name.startswith(machine) for name in job.devices)]
        hours = covered(there) / 3600
        computing = sum(job.share * job.seconds.get(COMPUTING, 0.0) for job in jobs) / 3600
        busy = computing / hours if hours else math.nan
        is_gpu = not device.endswith(": CPU")
        cells = [
            word(device),
            number(len(jobs), 0),
            number(hours, 2),
            number(computing, 2),
            number(100 * busy if is_gpu else math.nan, 0),
            number(math.nan if is_gpu else busy, 1),
        ]
        table.rows.append(TableRow(cells))
    return table


def covered(times: Iterable[JobTimes]) -> float:
    """Seconds in which there was at least one of some jobs."""
    total, end = 0.0, -math.inf
    for job in sorted(times, key=lambda job: job.began):
        ended = job.began + sum(job.seconds.values())
        total += max(0.0, ended - max(job.began, end))
        end = max(end, ended)
    return total
