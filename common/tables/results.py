"""What the files of the runs say, one row per method and one per control."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from common.config.method_entry import Kind, MethodEntry
from common.config.settings import EvaluationSettings
from common.errors import Damaged, Unreachable, UserError
from common.failures import Failure, renamed
from common.files import write_record
from common.runs.benchmark import Benchmark, Group, Skipped
from common.runs.jobs import Control, ReadRun, Run, TrainedRun, Training
from common.runs.records import ControlMetrics, Cost, Metrics, Scores
from common.scoring.stored_scores import Known, computed

Record = TypeVar("Record")
AnyScores = TypeVar("AnyScores", bound=Scores)

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
        metrics: Its scores, as its counts give them; None if there are none, or none that can be read.
        cost: Its cost, measured by an older recipe where there is no other; None if there is to be none, or
            there is none that can be read.
        error: Why something is missing, in a sentence; None if nothing is.
        unreadable: Whether a file is there that cannot be read, or is not what it should be.
        edited: Scores of which `metrics.json` says something else than the counts.
    """

    run: Run
    metrics: Metrics | None = None
    cost: Cost | None = None
    error: str | None = None
    unreadable: bool = False
    edited: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """Whether all that there is to be is there; predictions that were read cost nothing that is known."""
        wanted = isinstance(self.run, TrainedRun) and self.run.measured
        measured = self.cost is not None and not self.cost.outdated
        return self.metrics is not None and (measured or not wanted)


@dataclass(frozen=True)
class ControlResult:
    """What the files of one control say.

    Attributes:
        control: The control.
        metrics: Its scores, as its counts give them; None if there are none, or none that can be read.
        error: Why they are missing, in a sentence; None if they are there or the stage has not run.
        unreadable: Whether a file is there that cannot be read, or is not what it should be.
        edited: Scores of which `metrics.json` says something else than the counts.
    """

    control: Control
    metrics: ControlMetrics | None = None
    error: str | None = None
    unreadable: bool = False
    edited: Sequence[str] = ()


@dataclass(frozen=True)
class ScoreRow(ABC):
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
    @abstractmethod
    def scores(self) -> Sequence[Scores]:
        """The scores that there are."""

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
        skipped: Why there are none, if it is not run.
    """

    results: Sequence[Result]
    skipped: Skipped | None = None

    @cached_property
    def scores(self) -> list[Metrics]:
        """The scores of the seeds that have some."""
        return [result.metrics for result in self.results if result.metrics]

    @cached_property
    def costs(self) -> list[Cost]:
        """What its runs cost, of those that were measured; by the newest recipe that there is."""
        return newest([result.cost for result in self.results if result.cost])

    @property
    def entry(self) -> MethodEntry | None:
        """The method; None if predictions are read."""
        own = self.skipped.entry if self.skipped else None
        return next((r.run.entry for r in self.results if isinstance(r.run, TrainedRun)), own)

    @property
    def evaluation(self) -> EvaluationSettings:
        """How its images are seen."""
        return self.results[0].run.evaluation if self.results else self.group.evaluation

    @property
    def kind(self) -> Kind:
        """Whether it is of a method, or of what else the cost of one would buy."""
        return self.entry.kind if self.entry else "method"

    @property
    def tuned(self) -> str:
        """What the search took that has chosen its settings, in words; empty if none has or it is skipped."""
        facts = self.entry.tuned if self.entry and not self.skipped else None
        if not facts:
            return ""
        return f"{facts.get('candidates', '?')} candidates, budget {facts.get('budget', '?')}"

    @property
    def training(self) -> Training | None:
        """How the model of its first seed is trained; None if predictions are read."""
        return next((r.run.training for r in self.results if isinstance(r.run, TrainedRun)), None)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All trainings that its first seed needs; none if predictions are read."""
        return next((r.run.trainings for r in self.results if isinstance(r.run, TrainedRun)), ())

    @property
    def trained_as(self) -> tuple[str, str, str] | None:
        """Which training its models come from, if any: rows that only refine share one."""
        training = self.training
        return (training.dataset, training.model, training.method) if training else None

    @property
    def origin(self) -> str:
        """Where its labels come from."""
        return READ if any(isinstance(result.run, ReadRun) for result in self.results) else TRAINED

    @property
    def error(self) -> str:
        """Why results are missing, with the seeds that it is true of; or why it is not run."""
        if self.skipped:
            return f"skipped: {self.skipped.reason}"
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

    @cached_property
    def scores(self) -> list[ControlMetrics]:
        """Its scores, if there are any."""
        return [self.result.metrics] if self.result.metrics else []


def newest(costs: Sequence[Cost]) -> list[Cost]:
    """Those that were measured by the newest recipe among them: numbers of several do not compare."""
    recipe = max((cost.recipe for cost in costs), default=0)
    return [cost for cost in costs if cost.recipe == recipe]


def read_results(
    benchmark: Benchmark, known: Known | None = None, records: Mapping[Path, Metrics] | None = None
) -> list[Result]:
    """What the files of every run say.

    What is damaged is renamed, so that it is missing and made again; the record of a failure in its folder
    says so from then on.

    Args:
        benchmark: The runs.
        known: The scores that files of counts gave before, as of `RememberedScores`; more are added.
        records: Records of scores that were read before, by their files.
    """
    return [_read(run, known, records or {}) for run in benchmark.runs]


def rows_of(benchmark: Benchmark, results: Iterable[Result]) -> list[Row]:
    """Results by dataset, model and method, in the order of the runs; and what is skipped."""
    groups = {group.key: group for group in benchmark.groups}
    rows: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        run = result.run
        rows.setdefault((run.dataset, run.model, run.method), []).append(result)
    skipped = {(skip.dataset, skip.model, skip.method): skip for skip in benchmark.skipped}
    return [
        Row(
            groups[dataset, model],
            name,
            rows.get((dataset, model, name), []),
            skipped.get((dataset, model, name)),
        )
        for dataset, model, name in (*rows, *skipped)
    ]


def read_controls(benchmark: Benchmark) -> list[ControlRow]:
    """The controls that are there or have failed; damaged files as of `read_results`."""
    rows = []
    for group in benchmark.groups:
        for control in group.controls:
            result = _read_control(control)
            if result.metrics or result.error:
                rows.append(ControlRow(group, control.label, result))
    return rows


def _read(run: Run, known: Known | None, records: Mapping[Path, Metrics]) -> Result:
    """What the files of one run say; the rest as of `read_results`."""
    faults: list[UserError] = []
    names = run.data.dataset.class_names

    def read() -> tuple[Metrics, list[str]]:
        return computed(records.get(run.metrics) or Metrics.read(run), run.folder, names, known)

    metrics, edited = _scores(read, run, "evaluate", faults)
    cost = _cost(run, metrics, faults) if isinstance(run, TrainedRun) and run.measured else None
    result = Result(run, metrics, cost, _listed(faults), any(map(_is_unreadable, faults)), edited)
    return result if faults or result.complete else replace(result, error=_reason(run, cost))


def _listed(faults: Sequence[UserError]) -> str | None:
    """Faults as a reason."""
    return "; ".join(map(str, faults)) or None


def _is_unreadable(fault: UserError) -> bool:
    """Whether a file is there that cannot be read or is not what it should be: not if one is missing."""
    return isinstance(fault, Damaged | Unreachable)


def _scores(
    read: Callable[[], tuple[AnyScores, list[str]]], job: Run | Control, stage: str, faults: list[UserError]
) -> tuple[AnyScores | None, list[str]]:
    """Scores and which of them were edited, if there are any that are sound; else a reason in `faults`."""
    return _record(job.metrics, read, job.error, stage, faults) or (None, [])


def _cost(run: TrainedRun, metrics: Metrics | None, faults: list[UserError]) -> Cost | None:
    """The cost of a run; one of an older recipe where there is no newer one. Both are of the scored model."""
    cost = _record(run.cost, lambda: Cost.read(run), run.error, "measure", faults) or Cost.read_outdated(run)
    scored = metrics.trained.state_sha256 if metrics and metrics.trained else None
    if cost and scored not in (None, cost.state_sha256):
        if not cost.outdated:
            reason = "and metrics.json are of two models that were trained alike"
            faults.append(Damaged(run.cost, reason, f"delete {run.folder} and run again"))
        return None
    return cost


def _record(
    path: Path, read: Callable[[], Record], error_file: Path, stage: str, faults: list[UserError]
) -> Record | None:
    """A record if its file is there and sound.

    Args:
        path: The file.
        read: Reads it.
        error_file: Where to tell that something is damaged, and was renamed.
        stage: The stage that makes it again.
        faults: What is wrong is added to it.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read()
    except UserError as error:
        failure = Failure.last(error_file)
        if not _is_unreadable(error) and failure and failure.kind == Damaged.kind:
            error = UserError(failure.error)  # why something is missing
        faults.append(recorded(error, error_file, stage))
        return None


def recorded(error: UserError, error_file: Path, stage: str) -> UserError:
    """An error, once a file that it finds damaged is renamed and that is written down.

    Args:
        error: What was found.
        error_file: Where to tell it.
        stage: The stage that makes the file again, and then forgets the error.
    """
    if isinstance(error, Damaged):
        error = renamed(error)
        with contextlib.suppress(OSError, UserError):  # a file system that is read-only
            write_record(error_file, Failure.of(error, stage))
    return error


def _reason(run: Run, cost: Cost | None) -> str:
    """Why results of a run are missing: the latest failure, or the stage that has not run.

    Args:
        run: The run.
        cost: Its cost, if there is one, measured by an older recipe.
    """
    untrained = isinstance(run, TrainedRun) and not run.training.file.exists()
    failures = [Failure.last(run.error)]
    if isinstance(run, ReadRun):
        failures.append(Failure.last(run.data.error))
    elif isinstance(run, TrainedRun) and untrained and not run.metrics.exists():
        failures += [Failure.last(run.training.error), Failure.last(run.data.error)]
    for failure in failures:
        if failure:
            return _told_before(failure)
    if run.metrics.exists():
        return f"measured by recipe {cost.recipe}, not yet again" if cost else "not measured yet"
    return "not trained yet" if untrained else "not evaluated yet"


def _told_before(failure: Failure) -> str:
    """What a record of a failure says, in a table."""
    return failure.error if failure.kind == Damaged.kind else f"{failure.stage} failed: {failure.error}"


def _read_control(control: Control) -> ControlResult:
    """What the files of one control say."""
    faults: list[UserError] = []
    names = control.data.dataset.class_names
    metrics, edited = _scores(
        lambda: computed(ControlMetrics.read(control), control.folder, names), control, "controls", faults
    )
    failure = Failure.last(control.error) if not control.metrics.exists() else None
    if failure and not faults:
        faults.append(UserError(_told_before(failure)))
    return ControlResult(control, metrics, _listed(faults), any(map(_is_unreadable, faults)), edited)
