"""The counts of many results that are new, read by several processes before tables read them one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec

from common.errors import UserError
from common.integrity import StoredFile
from common.runs.benchmark import Benchmark
from common.runs.records import Metrics
from common.scoring.counts import ComparedCounts
from common.scoring.stored_scores import Known, key_of, read_counts, scores_of

FEWEST = 200
"""Of fewer new results nothing is read before: to start processes takes as long as they save."""

CHUNK = 16
"""So many files a process reads at a time."""

ROOM = 2**28
"""So many bytes of counts are kept for comparisons, which read others again."""


class New(NamedTuple):
    """What was read of new results.

    Attributes:
        records: Their records, by the files of these.
        compared: What comparisons need of their counts, by the SHA-256 of the files of these, as far as there
            is room for that.
    """

    records: dict[Path, Metrics]
    compared: dict[str, ComparedCounts]


_Counted = tuple[msgspec.Raw, ComparedCounts]
"""The scores that a file gives, as of `Known`, and what comparisons need of it."""


class _File(NamedTuple):
    """A file of counts, what the record of its scores says of it, and one name per class."""

    path: Path
    stored: StoredFile
    class_names: list[str]


def count_new(benchmark: Benchmark, known: Known) -> New:
    """Adds the scores of new results to those that are known, if there are many.

    What is damaged or out of reach is left out: whoever reads it next says so.

    Args:
        benchmark: The runs.
        known: The scores that files of counts gave before; more are added.
    """
    new = New({}, {})
    if len(benchmark.runs) - len(known) < FEWEST:
        return new
    files = {key: file for key, file in _files(benchmark, new.records) if key not in known}
    room = ROOM
    for key, (scores, counts) in _counted(files):
        known[key] = scores
        room -= counts.size
        if room > 0:
            new.compared[files[key].stored.sha256] = counts
    return new


def _files(benchmark: Benchmark, records: dict[Path, Metrics]) -> Iterator[tuple[str, _File]]:
    """The files of counts that records of scores tell of, by their keys in what is known.

    Args:
        benchmark: The runs.
        records: The records are added to these, by their files.
    """
    for run in benchmark.runs:
        try:
            record = Metrics.read(run)
        except UserError:
            continue
        records[run.metrics] = record
        path = run.per_image
        if path.name in record.files:
            stored, names = record.files[path.name], list(run.data.dataset.class_names)
            yield key_of(stored, names), _File(path, stored, names)


def _counted(files: dict[str, _File]) -> Iterator[tuple[str, _Counted]]:
    """What files give, by their keys, of those that give something."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(asked) if asked.isdecimal() else len(os.sched_getaffinity(0))
    processes = min(threads, len(files) // CHUNK)
    if processes <= 1:
        yield from _sound(files, map(_count, files.values()))
        return
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        try:
            yield from _sound(files, pool.map(_count, files.values(), chunksize=CHUNK))
        except BrokenProcessPool:  # one was killed: the rest is read one by one
            return


def _sound(keys: Iterable[str], results: Iterable[_Counted | None]) -> Iterator[tuple[str, _Counted]]:
    """Results with their keys, without those that are None."""
    return ((key, result) for key, result in zip(keys, results) if result is not None)


def _count(file: _File) -> _Counted | None:
    """What a file gives; None if it cannot be read."""
    try:
        counts = read_counts(*file)
    except UserError:
        return None
    return scores_of(counts, file.class_names), counts.compared
