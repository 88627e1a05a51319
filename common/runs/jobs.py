"""What there is to do, with all that a stage needs for it: preparations, trainings, runs, controls.

The digest in a folder's name says what its content depends on, so a changed option is a new folder, an old
result is never mistaken for a new one, and results copied from elsewhere are simply found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.config.method_entry import Kind, MethodEntry
from common.config.settings import EvaluationSettings, TrainingSettings
from common.datasets.base import Dataset
from common.datasets.manifest import Manifest
from common.errors import UnreadableRecord
from common.images.foreign_predictions import ForeignPredictions
from common.networks.options import ModelOptions
from common.runs import recipes
from common.seeds import derive

CEILING = "ceiling"
CONTROLS = ("majority", CEILING)
"""The labellings that bracket every table: the commonest class of the training images everywhere, and the
truth seen through the network's output grid."""


@dataclass(frozen=True)
class Preparation:
    """A dataset to be looked at, once: what it is, and the files that say what is there.

    Attributes:
        dataset: The dataset as the configuration describes it.
        options: All of its options.
        digest: Of the options that its content depends on.
        results: The folder of all results.
        training_splits: The splits, or splits joined, that models are trained on.
    """

    dataset: Dataset
    options: dict[str, Any]
    digest: str
    results: Path
    training_splits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the dataset in the configuration."""
        return self.dataset.entry

    @cached_property
    def path(self) -> Path:
        """The manifest."""
        return self.results / "datasets" / f"{self.name}-{self.digest}.json"

    @property
    def panel(self) -> Path:
        """The images and labels that the picture panels show."""
        return self.path.with_suffix(".panel.npz")

    @property
    def places(self) -> Path:
        """Where the dataset has been seen to lie."""
        return self.path.parent / "places" / self.path.name

    @property
    def error(self) -> Path:
        """Where a failure of the prepare stage is told."""
        return self.path.with_suffix(".error.json")

    def manifest(self) -> Manifest:
        """What the prepare stage found.

        Raises:
            UserError: It has not run, or its file is damaged.
        """
        if not self.path.exists():
            how = f"`structseg prepare --dataset {self.name}` with the same --configfile writes it"
            raise UnreadableRecord(f"{self.path} is missing: {how}")
        return Manifest.read(self.path)


@dataclass(frozen=True)
class Training:
    """One model to train.

    Attributes:
        data: The dataset.
        model: Name of the model.
        model_options: Its options.
        entry: The method entry that trains it.
        seed: The seed.
        settings: The settings of training.
        digest: Of everything that the trained model depends on.
        results: The folder of all results.
        weights_sha256: Of the file of weights that it starts from; None if there is none, or none is known.
        start: The training whose model it goes on from; None if it starts anew.
        member: Which member of an ensemble it is; 0 is the model of the seed itself.
    """

    data: Preparation
    model: str
    model_options: ModelOptions
    entry: MethodEntry
    seed: int
    settings: TrainingSettings
    digest: str
    results: Path
    weights_sha256: str | None = None
    start: Training | None = None
    member: int = 0

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.data.name

    @property
    def method(self) -> str:
        """Name of the method entry."""
        return self.entry.name

    @property
    def stream(self) -> int:
        """What everything random is derived from: the seed, or another number for each further member."""
        return derive(self.seed, "member", self.member) if self.member else self.seed

    @property
    def chain(self) -> tuple[Training, ...]:
        """All trainings that the model comes from, in their order, this one last."""
        return (*self.start.chain, self) if self.start else (self,)

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        place = self.results / "models" / self.dataset / self.model / self.method
        return place / f"seed{self.seed}-{self.digest}"

    @cached_property
    def file(self) -> Path:
        """The trained model."""
        return self.folder / "model.pt"

    @property
    def second_name(self) -> Path:
        """The second name of the trained model, which Snakemake does not know and so does not delete."""
        return self.state / "finished.pt"

    @property
    def lost(self) -> bool:
        """Whether there is no trained model, nor one that is brought back by its second name."""
        return not self.file.exists() and not self.second_name.exists()

    @property
    def log(self) -> Path:
        """The log of its training."""
        return self.folder / "training.jsonl"

    @property
    def state(self) -> Path:
        """The folder with what an interrupted training goes on from; it is no declared output."""
        return self.folder / "state"

    @property
    def error(self) -> Path:
        """Where a failure is told."""
        return self.folder / "error.json"


@dataclass(frozen=True)
class Run:
    """One (dataset, model, method, seed) to score: a `TrainedRun` or a `ReadRun`.

    Attributes:
        data: The dataset.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        evaluation: The settings of evaluation.
        digest: Of everything that the scores depend on.
        results: The folder of all results.
    """

    data: Preparation
    model: str
    method: str
    seed: int
    evaluation: EvaluationSettings
    digest: str
    results: Path

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.data.name

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        place = self.results / "runs" / self.dataset / self.model / self.method
        return place / f"seed{self.seed}-{self.digest}"

    @cached_property
    def metrics(self) -> Path:
        """The scores."""
        return self.folder / "metrics.json"

    @property
    def per_image(self) -> Path:
        """The confusion, boundary and calibration counts of every image."""
        return self.folder / "per_image.npz"

    @property
    def panel(self) -> Path:
        """The predicted labels of the images that the picture panels show."""
        return self.folder / "panel.npz"

    @property
    def labels(self) -> Path:
        """The predicted labels of the images that the report chooses from."""
        return self.folder / "labels.zip"

    @property
    def error(self) -> Path:
        """Where a failure is told."""
        return self.folder / "error.json"


@dataclass(frozen=True)
class TrainedRun(Run):
    """A run that scores a trained model.

    Attributes:
        members: The models whose probabilities are averaged, that of the seed first: one, but for ensembles.
        entry: The method entry of the run: the one that trains the model, or one that reuses it.
        measured: Whether its cost is to be measured.
    """

    members: tuple[Training, ...]
    entry: MethodEntry
    measured: bool

    @property
    def training(self) -> Training:
        """The model of the seed, the first of the members."""
        return self.members[0]

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All trainings that the run needs, in their order: what its training costs is their sum."""
        return tuple(training for member in self.members for training in member.chain)

    @property
    def kind(self) -> Kind:
        """Whether it is of a method, or of what else the cost of one would buy."""
        return self.entry.kind

    @property
    def lost(self) -> bool:
        """Whether one of its models is neither there nor brought back."""
        return any(member.lost for member in self.members)

    @property
    def cost(self) -> Path:
        """Time and memory, measured by the recipe of today."""
        return self.cost_by(recipes.MEASURING.number)

    def cost_by(self, recipe: int) -> Path:
        """Time and memory, measured by the recipe of that number."""
        return self.folder / f"cost-{recipe}.json"


@dataclass(frozen=True)
class ReadRun(Run):
    """A run that scores the predictions of another system, read from a folder.

    Attributes:
        predictions: Where they lie.
    """

    predictions: ForeignPredictions


@dataclass(frozen=True)
class Control:
    """A labelling that no model made, which brackets the runs of a dataset and model.

    Attributes:
        data: The dataset.
        model: Name of the model, whose output grid it sees.
        model_options: The model's options.
        name: What it is, one of `CONTROLS`.
        grid: How many times finer than the model's output grid the grid is that it sees, or `full`.
        training_split: What the models are trained on.
        split: What is scored.
        digest: Of everything that its scores depend on.
        results: The folder of all results.
    """

    data: Preparation
    model: str
    model_options: ModelOptions
    name: str
    training_split: str
    split: str
    digest: str
    results: Path
    grid: int | str = 1

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.data.name

    @property
    def label(self) -> str:
        """What tables call it."""
        factor = {1: "", "full": " full"}.get(self.grid, f" {self.grid}x")
        return f"{self.name}{factor}"

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.results / "controls" / self.dataset / self.model / self.digest / self.name

    @property
    def metrics(self) -> Path:
        """The scores."""
        return self.folder / "metrics.json"

    @property
    def per_image(self) -> Path:
        """The confusion and boundary counts of every image."""
        return self.folder / "per_image.npz"

    @property
    def error(self) -> Path:
        """Where a failure of the stage is told, for all controls of the dataset and model."""
        return self.folder.parent / "error.json"


def description(job: Training | Run) -> str:
    """A run or a training, as messages name it."""
    member = getattr(job, "member", 0)
    place = f", member {member} of an ensemble" if member else ""
    return f"{job.model} with {job.method} on {job.dataset}, seed {job.seed}{place}"
