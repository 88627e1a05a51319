"""A finished run as its own files describe it: what predicts and exports without a configuration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

import methods
from common.config.method_code import code_digest
from common.config.method_entry import MethodEntry
from common.config.method_facts import cannot_be_loaded
from common.config.settings import typed
from common.errors import UserError
from common.images.palette import Colour
from common.networks.options import ModelOptions
from common.prediction.inputs import described_by
from common.prediction.predictor import Predictor, View, views
from common.runs import recipes
from common.runs.recipes import Recipe
from common.runs.records import Metrics, TrainedModel, TrainedModelFacts


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file that is made with a run says of it.

    Attributes:
        dataset: Name of the dataset that its model was trained on.
        model: Name of the model.
        method: Name of the method entry.
        seed: The seed.
        digest: Of everything that its output depends on.
        trained_as: Name of the entry that trained the model.
        trained: Where the model comes from.
        class_names: One name per class.
        colours: One RGB colour per class.
    """

    dataset: str
    model: str
    method: str
    seed: int
    digest: str
    trained_as: str
    trained: TrainedModelFacts
    class_names: list[str]
    colours: list[Colour]


@dataclass(frozen=True)
class StoredRun:
    """A trained model on disk, and the method that is used with it.

    Attributes:
        method: Name of the method entry.
        digest: Of everything that its output depends on.
        trained: The trained model.
        trained_entry: The method that the model was trained with.
        entry: The method of the run; the same, or one that reuses the model.
        views: At which scales, and whether mirrored, the run was evaluated.
        others: The further models of an ensemble.
    """

    method: str
    digest: str
    trained: TrainedModel
    trained_entry: MethodEntry
    entry: MethodEntry
    views: tuple[View, ...] = (View(),)
    others: tuple[TrainedModel, ...] = ()

    @classmethod
    def read(cls, path: Path | str) -> StoredRun:
        """Reads a run folder, the folder of a trained model, or its `model.pt`.

        A run folder finds its model where the train stage has put it, or in itself.

        Raises:
            UserError: It is none of these, or something in it is missing or damaged.
        """
        file = described_by(Path(path))
        if file.name == "metrics.json":
            return cls._evaluated(file.parent, Metrics.read_file(file))
        trained = _trained_model(file)
        entry = _trained_entry(trained)
        return cls(trained.method, trained.digest, trained, entry, entry)

    @classmethod
    def _evaluated(cls, folder: Path, metrics: Metrics) -> StoredRun:
        """Reads an evaluated run in its folder."""
        trained, *others = _scored_models(folder, metrics)
        _warn_of_other_recipe(folder, recipes.SCORING, metrics.recipe)
        trained_entry = entry = _trained_entry(trained)
        if metrics.method != trained.method:
            entry = _run_entry(folder, metrics)
        scored = views(metrics.evaluation)
        return cls(metrics.method, metrics.digest, trained, trained_entry, entry, scored, tuple(others))

    @property
    def dataset(self) -> str:
        """Name of the dataset that it was trained on."""
        return self.trained.dataset

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.trained.model

    @property
    def seed(self) -> int:
        """The seed."""
        return self.trained.seed

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return tuple(self.trained.class_names)

    @property
    def colours(self) -> tuple[Colour, ...]:
        """One RGB colour per class."""
        return tuple(self.trained.colours)

    def predictor(
        self, device: torch.device | str = "cpu", views: tuple[View, ...] | None = None
    ) -> Predictor:
        """The network with its methods.

        Args:
            device: Where to put it, such as `cuda`.
            views: At which scales, and whether mirrored, it sees images, if not as it was evaluated.

        Raises:
            UserError: The code of the model or of a method does not fit the files any more.
        """
        trained = self.trained
        try:
            options = typed(ModelOptions, trained.model_options)
            entries = (self.trained_entry, self.entry)
            wanted = self.views if views is None else views
            return Predictor.build([trained, *self.others], options, *entries, torch.device(device), wanted)
        except msgspec.ValidationError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the trained model of {self.model} with {self.trained_entry.name} does not fit the code "
                f"({reason}): use the code of commit {trained.provenance.commit}"
            ) from error

    def description(self) -> Description:
        """What a file that is made with the run says of it."""
        return Description(
            dataset=self.dataset,
            model=self.model,
            method=self.method,
            seed=self.seed,
            digest=self.digest,
            trained_as=self.trained_entry.name,
            trained=self.trained.facts,
            class_names=list(self.class_names),
            colours=list(self.colours),
        )


def _scored_models(folder: Path, metrics: Metrics) -> list[TrainedModel]:
    """The model of a run, or those of all members of an ensemble, as they were scored."""
    if metrics.trained is None or metrics.trained_as is None:
        raise UserError(f"{folder} is of predictions that were read from a folder: it has no model")
    models = []
    for place, facts in enumerate((metrics.trained, *metrics.members)):
        own = folder / (f"model-{place}.pt" if place else "model.pt")
        file = own if own.exists() else _model_file(folder, metrics, facts, metrics.trained_as)
        models.append(_trained_model(file))
        if models[-1].state_sha256 != facts.state_sha256:
            raise UserError(
                f"{file} is another model than the one whose scores are in {folder}: bring that one back, or "
                "name the folder of the model, or evaluate again"
            )
    return models


def _model_file(folder: Path, metrics: Metrics, facts: TrainedModelFacts, trained_as: str) -> Path:
    """Where a model of a run lies beside the runs, if it is not in the run's own folder."""
    name = f"seed{metrics.seed}-{facts.digest}"
    results = (folder.resolve() / "../../../../..").resolve()
    file = results.joinpath("models", metrics.dataset, metrics.model, trained_as, name, "model.pt")
    if not file.exists():
        raise UserError(f"{file} is missing: {folder} needs it; copy it there or into the folder of the run")
    return file


def _trained_model(file: Path) -> TrainedModel:
    """A trained model; a warning if models are trained by another recipe now."""
    trained = TrainedModel.read(file)
    _warn_of_other_recipe(file, recipes.TRAINING, trained.recipe)
    return trained


def _warn_of_other_recipe(path: Path, recipe: Recipe, number: int) -> None:
    """Says that a result was made by another recipe than that of today, and what has changed since."""
    if number != recipe.number:
        since = f" ({recipe.since(number)})" if number < recipe.number else ""
        print(
            f"structseg: {path} is of {recipe.name} recipe {number}, and this code has recipe "
            f"{recipe.number}{since}: what it gives does not compare with results of today",
            file=sys.stderr,
        )


def _trained_entry(trained: TrainedModel) -> MethodEntry:
    """The method entry that trained a model."""
    return _entry(trained.method, trained.method_module, trained.method_code, trained.method_options)


def _run_entry(folder: Path, metrics: Metrics) -> MethodEntry:
    """The method entry of an evaluated run."""
    module, code, options = metrics.method_module, metrics.method_code, metrics.method_options
    if module is None or code is None or options is None:
        raise UserError(f"{folder / 'metrics.json'} does not say what {metrics.method} is: evaluate again")
    return _entry(metrics.method, module, code, options)


def _entry(name: str, module: str, code: str, options: dict[str, Any]) -> MethodEntry:
    """The method entry that a record tells of; a warning if its code has changed since."""
    if module not in methods.names():
        raise UserError(f"methods/{module}.py is missing: the run of {name} needs it")
    try:
        changed = code != code_digest(module)
    except Exception as error:  # it cannot be parsed
        raise cannot_be_loaded(module, error) from error
    if changed:
        print(
            f"structseg: methods/{module}.py has changed since this run: its output may differ",
            file=sys.stderr,
        )
    return MethodEntry(name, module, options, None)
