"""What the files of the runs say, one row per method and one per control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.config.entries import MethodEntry
from common.errors import UnreadableRecord
from common.failures import Failure
from common.runs.jobs import Control, ReadRun, Run, TrainedRun
from common.runs.plan import Benchmark, Group
from common.runs.records import ControlMetrics, Cost, Metrics, Scores

Record = TypeVar("Record")

TRAINED = "trained here"
READ = "predictions read from a folder"
"""The origins of rows: models of ours, or predictions of another system."""

CERTIFICATE = ("gap_per_cell", "agreement")
"""Diagnostics that are shown for the methods that have them."""


@dataclass(frozen=True)
class Result:
    """What the files of one run say.

    Attributes:
        run: The run.
        metrics: Its scores; None if there are none, or none that can be read.
        cost: Its cost; likewise.
        error: Why something is missing, in a sentence; None if nothing is.
    """

    run: Run
    metrics: Metrics | None = None
    cost: Cost | None = None
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all that there can be is there: predictions that were read cost nothing that is known."""
        return self.metrics is not None and (self.cost is not None or isinstance(self.run, ReadRun))


@dataclass(frozen=True)
class ControlResult:
    """What the files of one control say.

    Attributes:
        control: The control.
        metrics: Its scores; None if there are none, or none that can be read.
        error: Why they are missing, in a sentence; None if they are there or the stage has not run.
    """

    control: Control
    metrics: ControlMetrics | None = None
    error: str | None = None


@dataclass(frozen=True)
class ScoreRow:
    """What has a line in tables of scores: a `Row` or a `ControlRow`.

    Attributes:
        group: The dataset and model, with their settings.
        method: The name of the method entry, or of the control.
    """

    group: Group
    method: str

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.group.dataset

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.group.model

    @property
    def names(self) -> dict[str, str]:
        """What every line about the row begins with."""
        return {"dataset": self.dataset, "model": self.model, "method": self.method}

    @property
    def key(self) -> tuple[str, str, str]:
        """Names of dataset, model and method."""
        return self.dataset, self.model, self.method

    @property
    def scores(self) -> Sequence[Scores]:
        """The scores that there are."""
        raise NotImplementedError

    def values(self, attribute: str, key: str | None = None) -> list[Any]:
        """An attribute of the scores of every seed that has it.

        Args:
            attribute: Its name, of `Metrics` or `Scores`.
            key: Of an attribute that is a mapping, the entry.
        """
        values = [getattr(scores, attribute, None) for scores in self.scores]
        if key is not None:
            values = [value.get(key) for value in values if value is not None]
        return [value for value in values if value is not None]

    def percent(self, attribute: str, key: str | None = None) -> list[float]:
        """Values that are fractions, in percent; arguments as of `values`."""
        return [100 * value for value in self.values(attribute, key)]


@dataclass(frozen=True)
class Row(ScoreRow):
    """The results of one method on one dataset with one model, over seeds.

    Attributes:
        results: One per run.
    """

    results: Sequence[Result]

    @property
    def scores(self) -> list[Metrics]:
        """The scores of the seeds that have some."""
        return [result.metrics for result in self.results if result.metrics]

    @property
    def costs(self) -> list[Cost]:
        """What its runs cost, of those that were measured."""
        return [result.cost for result in self.results if result.cost]

    @property
    def entry(self) -> MethodEntry | None:
        """The method; None if predictions are read."""
        return next((r.run.entry for r in self.results if isinstance(r.run, TrainedRun)), None)

    @property
    def trained_as(self) -> tuple[str, str, str] | None:
        """Which training its models come from, if any: rows that only refine share one."""
        trainings = [r.run.training for r in self.results if isinstance(r.run, TrainedRun)]
        return next(((t.dataset, t.model, t.method) for t in trainings), None)

    @property
    def origin(self) -> str:
        """Where its labels come from."""
        return READ if any(isinstance(result.run, ReadRun) for result in self.results) else TRAINED

    @property
    def error(self) -> str:
        """Why results are missing, with the seeds that it is true of."""
        seeds: dict[str, list[str]] = {}
        for result in self.results:
            if result.error:
                seeds.setdefault(result.error, []).append(str(result.run.seed))
        return "; ".join(f"seed {', '.join(numbers)}: {reason}" for reason, numbers in seeds.items())


@dataclass(frozen=True)
class ControlRow(ScoreRow):
    """A control of one dataset and model.

    Attributes:
        result: What its files say.
    """

    result: ControlResult

    @property
    def scores(self) -> list[ControlMetrics]:
        """Its scores, if there are any."""
        return [self.result.metrics] if self.result.metrics else []


def read_results(benchmark: Benchmark) -> list[Result]:
    """What the files of every run say."""
    return [_read(run) for run in benchmark.runs]


def rows_of(benchmark: Benchmark, results: Iterable[Result]) -> list[Row]:
    """Results by dataset, model and method, in the order of the runs."""
    groups = {group.key: group for group in benchmark.groups}
    rows: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        run = result.run
        rows.setdefault((run.dataset, run.model, run.method), []).append(result)
    return [Row(groups[dataset, model], name, members) for (dataset, model, name), members in rows.items()]


def read_controls(benchmark: Benchmark) -> list[ControlRow]:
    """The controls that are there or have failed."""
    rows = []
    for group in benchmark.groups:
        for control in group.controls:
            result = _read_control(control)
            if result.metrics or result.error:
                rows.append(ControlRow(group, control.name, result))
    return rows


def _read(run: Run) -> Result:
    faults: list[str] = []
    metrics = _record(run.metrics, lambda: Metrics.read(run), faults)
    cost = _record(run.cost, lambda: Cost.read(run), faults) if isinstance(run, TrainedRun) else None
    result = Result(run, metrics, cost, faults[0] if faults else None)
    return result if faults or result.complete else Result(run, metrics, cost, _reason(run))


def _record(path: Path, read: Callable[[], Record], faults: list[str]) -> Record | None:
    """A record if its file is there and sound; what is wrong with it is added to `faults`."""
    if not path.exists():
        return None
    try:
        return read()
    except UnreadableRecord as error:
        faults.append(str(error))
        return None


def _reason(run: Run) -> str:
    """Why results of a run are missing: the latest failure, or the stage that has not run."""
    untrained = isinstance(run, TrainedRun) and not run.training.file.exists()
    failures = [Failure.last(run.error)]
    if isinstance(run, ReadRun):
        failures.append(Failure.last(run.data.error))
    elif isinstance(run, TrainedRun) and untrained and not run.metrics.exists():
        failures += [Failure.last(run.training.error), Failure.last(run.data.error)]
    for failure in failures:
        if failure:
            return f"{failure.stage} failed: {failure.error}"
    if run.metrics.exists():
        return "not measured yet"
    return "not trained yet" if untrained else "not evaluated yet"


def _read_control(control: Control) -> ControlResult:
    faults: list[str] = []
    metrics = _record(control.metrics, lambda: ControlMetrics.read(control), faults)
    failure = Failure.last(control.error) if not control.metrics.exists() else None
    if failure:
        faults.append(f"controls failed: {failure.error}")
    return ControlResult(control, metrics, faults[0] if faults else None)
