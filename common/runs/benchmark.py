"""What a configuration asks for, looked up: tables, runs, what is skipped, and how it is all done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config.entries import Config
from common.config.method_entry import MethodEntry
from common.config.settings import EvaluationSettings, Execution, TableSettings, TrainingSettings
from common.runs.jobs import Control, Preparation, Run
from common.runs.outputs import Outputs


@dataclass(frozen=True)
class Group:
    """One dataset and model: the runs that one table compares.

    Attributes:
        data: The dataset.
        model: Name of the model.
        training: The settings of training.
        evaluation: The settings of evaluation.
        controls: The labellings that bracket the table.
    """

    data: Preparation
    model: str
    training: TrainingSettings
    evaluation: EvaluationSettings
    controls: tuple[Control, ...]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.data.name

    @property
    def key(self) -> tuple[str, str]:
        """Names of dataset and model."""
        return self.dataset, self.model


@dataclass(frozen=True)
class Skipped:
    """A method that is not run on a dataset with a model.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        entry: The method entry.
        reason: Why, in some words.
    """

    dataset: str
    model: str
    entry: MethodEntry
    reason: str

    @property
    def method(self) -> str:
        """Name of the method entry."""
        return self.entry.name


@dataclass(frozen=True)
class Benchmark:
    """All that a configuration asks for.

    Attributes:
        groups: Every combination of datasets and models.
        methods: The names of the methods, in their order.
        runs: Every combination of datasets, models, methods and seeds, but for what is skipped.
        skipped: What is not run, and why.
        tables: How results are put together.
        execution: How things are run.
        outputs: The files that are made from all runs.
        configuration: What was asked, complete, to be shown.
    """

    groups: tuple[Group, ...]
    methods: tuple[str, ...]
    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...]
    tables: TableSettings
    execution: Execution
    outputs: Outputs
    configuration: Config

    @property
    def datasets(self) -> list[Preparation]:
        """Every dataset, once."""
        return list({group.data.path: group.data for group in self.groups}.values())

    def others(self) -> list[Path]:
        """The scores in the folder of results that are of none of the runs."""
        configured = {run.metrics for run in self.runs}
        here = self.outputs.results.glob("runs/*/*/*/seed*-*/metrics.json")
        return sorted(path for path in here if path not in configured)
