"""Searches for the settings of entries: what each of them tries, on what, and where its files lie.

A search is made on images that the tables do not score. Candidates that only refine the output of a trained
model are all scored with that one. Others are trained: all of them for a share of the iterations, the better
ones for longer, each time as an ordinary training whose schedule is that of a whole one, compressed: at the
end of every round learning rates are where they are at the end of a training, so that scores compare.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from common.config import entries, reading, tuning
from common.config.entries import Config
from common.config.method_entry import MethodEntry
from common.config.settings import TuningSettings
from common.config.skips import skip_reason
from common.config.tuning import Candidate, Rung
from common.files import digest
from common.runs import plan
from common.runs.jobs import TrainedRun


@dataclass(frozen=True)
class Search:
    """One search for the settings of an entry, on one dataset and with one model.

    Attributes:
        run: What is scored of the entry as it stands in the configuration.
        settings: The section `tuning`.
        candidates: What is tried; the first is the entry as it is.
        possible: How many candidates the grid has, that one included.
        digest: Of everything that the search depends on.
        config: The configuration that its trainings are planned from, complete.
    """

    run: TrainedRun
    settings: TuningSettings
    candidates: tuple[Candidate, ...]
    possible: int
    digest: str
    config: Config = field(repr=False, compare=False)

    @property
    def entry(self) -> MethodEntry:
        """The entry as it stands in the configuration."""
        return self.run.entry

    @property
    def trains(self) -> bool:
        """Whether candidates are trained; if not, they refine what one trained model gives."""
        return tuning.trains(self.run.entry)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rounds of trainings; none if nothing is trained."""
        return tuning.rungs(self.settings, len(self.candidates)) if self.trains else ()

    @property
    def models(self) -> list[Path]:
        """The trained models that it needs and does not train itself."""
        held_out = self.settings.hold_out is not None
        return [] if self.trains or held_out else [self.run.training.file]

    @property
    def split(self) -> str:
        """What candidates are scored on, in words."""
        if self.settings.hold_out is None:
            return self.settings.split
        return f"what is held out of {self.run.training.settings.split}"

    def values(self, index: int) -> dict[str, object]:
        """What a candidate has of what the grid names, by the names there."""
        candidate = self.candidates[index]
        own = tuning.values(self.config, self.run.method, self.run.dataset, self.run.model)
        training = {f"{tuning.TRAINING}{key}": value for key, value in candidate.training.items()}
        return own | candidate.options | training

    def trial(self, index: int, rung: int) -> tuple[TrainedRun, Config]:
        """What is trained of a candidate in a round, and the configuration that says so.

        Args:
            index: Of the candidate.
            rung: The round.
        """
        share = self.rungs[rung].share
        candidate, whole = self.candidates[index], self.run.training.settings
        if share < 1:
            iterations = max(1, round(share * whole.iterations))
            warmup = candidate.training.get("warmup", whole.warmup)
            shorter = {"iterations": iterations, "warmup": min(round(share * warmup), iterations - 1)}
            candidate = Candidate(candidate.options, candidate.training | shorter)
        config = reading.merge(self.config, candidate.over(self.run.method, self.run.dataset))
        return _trained_run(config, self.run.dataset, self.run.model, self.run.method), config

    # Where its files are

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        run = self.run
        return run.results / "tuning" / run.dataset / run.model / f"{run.method}-{self.digest}"

    @property
    def table(self) -> Path:
        """The scores of all candidates."""
        return self.folder / "candidates.csv"

    @property
    def chosen(self) -> Path:
        """The best candidate, as a configuration to be laid over."""
        return self.folder / "chosen.yaml"

    @property
    def report(self) -> Path:
        """What there is to read about it."""
        return self.folder / "report.md"

    @property
    def record(self) -> Path:
        """What came of it."""
        return self.folder / "search.json"

    @property
    def outputs(self) -> list[Path]:
        """All that it writes at its end, the record last."""
        return [self.table, self.chosen, self.report, self.record]

    def scores(self, rung: int, place: int) -> Path:
        """What was scored of the candidate at a place of a round."""
        return self.folder / "trials" / f"{rung}-{place}.json"

    def counts(self, name: str) -> Path:
        """The folder with the confusion counts of every image; it is no declared output."""
        return self.folder / "counts" / name

    @property
    def error(self) -> Path:
        """Where a failure is told."""
        return self.folder / "error.json"


def search(config: Config, dataset: str, model: str, method: str) -> Search:
    """The search for the settings of an entry, on a dataset and with a model.

    Args:
        config: The complete configuration.
        dataset: Name of the dataset.
        model: Name of the model.
        method: An entry that `tuning.methods` names.
    """
    settings = tuning.settings(config)
    held_out = settings.hold_out is not None
    over: Config = {"methods": [method]}
    if held_out:
        over["training"] = {"hold_out": {"share": settings.hold_out, "seed": settings.seed}}
    if held_out or tuning.trains(entries.method(config, method, dataset)):
        over["seeds"] = [settings.seed]
    config = reading.merge(config, over)
    run = _trained_run(config, dataset, model, method)
    candidates = tuning.candidates(config, method, dataset, model)
    section = asdict(settings) | {"methods": None, "grid": tuning.grids(config)[method]}
    content = {"run": run.digest, "tuning": section, "candidates": [asdict(one) for one in candidates.sample]}
    return Search(run, settings, candidates.sample, candidates.possible, digest(content), config)


def searches(config: Config) -> list[Search]:
    """The searches that `tuning` describes, for all datasets and models; what is skipped is not searched."""
    names = itertools.product(config["datasets"], config["models"], tuning.searched(config))
    return [
        search(config, dataset, model, method)
        for dataset, model, method in names
        if skip_reason(config, method, dataset, model) is None
    ]


def _trained_run(config: Config, dataset: str, model: str, method: str) -> TrainedRun:
    """The run of an entry at the first seed."""
    run = plan.run(config, dataset, model, method, config["seeds"][0])
    if not isinstance(run, TrainedRun):
        raise ValueError(f"{method} is read from a folder")
    return run
