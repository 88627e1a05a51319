"""From a complete configuration to the benchmark: every run with all that a stage needs.

Only this module and the entry of the stages see a whole configuration; what it says of a run is looked up
here once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config import entries
from common.config.entries import Config
from common.config.method_code import code_digest
from common.config.method_entry import MethodEntry, PredictionsEntry
from common.config.settings import (
    EvaluationSettings,
    Execution,
    TableSettings,
    TrainingSettings,
    typed,
)
from common.config.skips import skip_reason
from common.errors import UserError
from common.files import digest
from common.images.foreign_predictions import ForeignPredictions, has_seeds
from common.networks.options import ModelOptions
from common.runs import recipes
from common.runs.benchmark import Benchmark, Group, Skipped
from common.runs.jobs import CEILING, CONTROLS, Control, Preparation, ReadRun, Run, TrainedRun, Training
from common.runs.outputs import Outputs
from common.runs.weights import identity


def benchmark(config: Config) -> Benchmark:
    """The benchmark that a complete configuration describes.

    Raises:
        UserError: Predictions that are to be read are not there.
    """
    groups = tuple(
        _group(config, dataset, model)
        for dataset, model in itertools.product(config["datasets"], config["models"])
    )
    jobs = tuple(runs(config))
    outputs = Outputs(
        Path(config["results"]),
        tuple(group.key for group in groups),
        tuple(map(str, [*(run.metrics for run in jobs), *costs(jobs)])),
        config["tables"] | _grouping(config),
    )
    return Benchmark(
        groups,
        tuple(config["methods"]),
        jobs,
        tuple(skipped(config)),
        typed(TableSettings, config["tables"]),
        execution(config),
        outputs,
        config,
    )


def _grouping(config: Config) -> Config:
    """The options of datasets that only tables depend on: which images belong together."""
    return {
        f"{name}.{key}": entries.dataset_options(config, name)[key]
        for name in config["datasets"]
        for key in entries.dataset(config, name).grouping
    }


def costs(jobs: Iterable[Run]) -> list[Path]:
    """The costs that some runs are to have: those of models that are trained here and to be measured."""
    return [run.cost for run in jobs if isinstance(run, TrainedRun) and run.measured]


def execution(config: Config) -> Execution:
    """How things are run."""
    return typed(Execution, config["execution"])


def _group(config: Config, dataset: str, model: str) -> Group:
    return Group(
        preparation(config, dataset),
        model,
        training_settings(config, dataset, model),
        _evaluation_settings(config, dataset, model),
        tuple(controls(config, dataset, model)),
    )


def training_settings(config: Config, dataset: str, model: str) -> TrainingSettings:
    """The settings of training for one dataset and model."""
    return typed(TrainingSettings, entries.settings(config, "training", dataset, model))


def _evaluation_settings(config: Config, dataset: str, model: str) -> EvaluationSettings:
    return typed(EvaluationSettings, entries.settings(config, "evaluation", dataset, model))


def _model_options(config: Config, model: str) -> ModelOptions:
    return typed(ModelOptions, config["model_options"][model])


def preparation(config: Config, name: str) -> Preparation:
    """The dataset that the configuration calls `name`, to be looked at."""
    dataset = entries.dataset(config, name)
    options = entries.dataset_options(config, name)
    left_out = {*dataset.locations, *dataset.grouping}
    content = {
        "module": entries.dataset_module(config, name),
        "options": {key: value for key, value in options.items() if key not in left_out},
    }
    splits = {entries.settings(config, "training", name, model)["split"]: None for model in config["models"]}
    return Preparation(dataset, options, digest(content), Path(config["results"]), tuple(splits))


def training(config: Config, dataset: str, model: str, method: str, seed: int, member: int = 0) -> Training:
    """The training of a method entry that trains its own model, or of a further member of an ensemble of it.

    Raises:
        UserError: It reads predictions.
    """
    return _trainings(config, dataset, model, method, [seed], member)[0]


def _trainings(
    config: Config, dataset: str, model: str, method: str, seeds: Sequence[int], member: int = 0
) -> list[Training]:
    """Trainings with several seeds, which share all but the last step.

    Raises:
        UserError: The file of weights is another one than results were made with.
    """
    entry = entries.method(config, method, dataset)
    starts: Sequence[Training | None] = [None] * len(seeds)
    if entry.start:
        starts = _trainings(config, dataset, model, entry.start, seeds, member)
    data = preparation(config, dataset)
    options, results = entries.model_options(config, model, entry), Path(config["results"])
    built = typed(ModelOptions, options)
    weights = identity(options["weights"], model, results)
    options["weights"] = weights.content  # where it lies does not matter
    settings = entries.settings(config, "training", dataset, model, entry)
    content = {
        "dataset": data.digest,
        "model": [model, options],
        "training": settings,
        "method": _identity(entry),
        "recipe": recipes.TRAINING.number,
    }
    if member:
        content["member"] = member
    if "hold_out" in settings:
        content["sequences"] = {key: data.options[key] for key in data.dataset.grouping}
    return [
        Training(
            data,
            model,
            built,
            entry,
            seed,
            typed(TrainingSettings, settings),
            digest(content | {"seed": seed} | _beginning(entry, start)),
            results,
            weights.sha256,
            start,
            member,
        )
        for seed, start in zip(seeds, starts, strict=True)
    ]


def _beginning(entry: MethodEntry, start: Training | None) -> dict[str, Any]:
    """What a digest has of the model that a training starts from, if from one."""
    if start is None:
        return {}
    return {"start": start.digest} | ({"freeze": entry.freeze} if entry.freeze else {})


def run(config: Config, dataset: str, model: str, method: str, seed: int) -> Run:
    """One run of the configuration.

    Raises:
        UserError: It reads predictions, and there are none; or it is skipped.
    """
    reason = skip_reason(config, method, dataset, model)
    if reason:
        raise UserError(f"{method} is not run on {dataset} with {model}: {reason}")
    return _runs(config, dataset, model, method, [seed])[0]


def runs(config: Config) -> list[Run]:
    """Every combination of datasets, models, methods and seeds, but for what is skipped.

    Predictions that are read and not told apart by seed are one run, at the first seed.
    """
    names = (config["datasets"], config["models"], config["methods"])
    return [
        run
        for dataset, model, method in itertools.product(*names)
        if skip_reason(config, method, dataset, model) is None
        for run in _runs(config, dataset, model, method, config["seeds"])
    ]


def skipped(config: Config) -> Iterator[Skipped]:
    """What is not run.

    Raises:
        UserError: That is all of a dataset and model.
    """
    for dataset, model in itertools.product(config["datasets"], config["models"]):
        reasons = {name: skip_reason(config, name, dataset, model) for name in config["methods"]}
        if all(reasons.values()):
            raise UserError(
                f"methods: none is left on {dataset} with {model}: {next(iter(reasons.values()))}"
            )
        for name, reason in reasons.items():
            if reason:
                yield Skipped(dataset, model, entries.method(config, name, dataset), reason)


def trained_runs(config: Config, dataset: str) -> list[TrainedRun]:
    """Every run of a model that is trained here on one dataset, whatever else there is."""
    methods = [
        name for name in config["methods"] if isinstance(entries.entry(config, name, dataset), MethodEntry)
    ]
    return [
        run
        for model, method in itertools.product(config["models"], methods)
        for run in _runs(config, dataset, model, method, config["seeds"])
        if isinstance(run, TrainedRun)
    ]


def _runs(config: Config, dataset: str, model: str, method: str, seeds: Sequence[int]) -> Sequence[Run]:
    entry = entries.entry(config, method, dataset)
    if isinstance(entry, PredictionsEntry):
        read = seeds if has_seeds(entry.folder) else seeds[:1]
        return [_read_run(config, dataset, model, entry, seed) for seed in read]
    trained = entries.trained_method(config, method, dataset).name
    evaluation = entries.settings(config, "evaluation", dataset, model, entry)
    content = {
        "method": _identity(entry),
        "evaluation": evaluation,
        "recipe": recipes.SCORING.number,
    }
    count = entry.ensemble.members if entry.ensemble else 1
    trainings = [_trainings(config, dataset, model, trained, seeds, member) for member in range(count)]
    return [
        TrainedRun(
            members[0].data,
            model,
            method,
            members[0].seed,
            typed(EvaluationSettings, evaluation),
            digest(content | _sources(members)),
            members[0].results,
            members,
            entry,
            _measured(config, members[0].seed),
        )
        for members in zip(*trainings, strict=True)
    ]


def _sources(members: Sequence[Training]) -> dict[str, Any]:
    """What a digest has of the models of a run."""
    first, *others = (training.digest for training in members)
    return {"training": first} | ({"members": others} if others else {})


def _measured(config: Config, seed: int) -> bool:
    """Whether what a run with that seed costs is to be measured."""
    measured = config["execution"]["measure"]
    return measured == "all" or (measured == "first_seed" and seed == config["seeds"][0])


def _read_run(config: Config, dataset: str, model: str, entry: PredictionsEntry, seed: int) -> ReadRun:
    """A run that reads predictions: it depends on what they are, not on where they lie."""
    data = preparation(config, dataset)
    settings = entries.settings(config, "evaluation", dataset, model)
    predictions = ForeignPredictions.of(entry.folder, dataset, model, seed, entry.colour_coded)
    content = {
        "dataset": data.digest,
        "predictions": predictions.content_sha256(data.dataset.parts(settings["split"])),
        "evaluation": settings,
        "recipe": recipes.SCORING.number,
    }
    if entry.colour_coded:
        content["colour_coded"] = True
    evaluation = _evaluation_settings(config, dataset, model)
    results = Path(config["results"])
    return ReadRun(data, model, entry.name, seed, evaluation, digest(content), results, predictions)


def controls(config: Config, dataset: str, model: str) -> list[Control]:
    """The controls that bracket the rows of a dataset and model, with a ceiling for each grid of methods."""
    coarse, *finer = control_sets(config, dataset, model)
    return [*coarse, *(control for jobs in finer for control in jobs if control.name == CEILING)]


def control_sets(config: Config, dataset: str, model: str) -> list[list[Control]]:
    """The controls of a dataset and model that are scored together, a list for each grid of its methods."""
    return [_controls_of(config, dataset, model, grid) for grid in _grids(config, dataset, model)]


def _grids(config: Config, dataset: str, model: str) -> list[int | str]:
    """The grids that methods have their logits on, that of the network first."""
    names = (name for name in config["methods"] if skip_reason(config, name, dataset, model) is None)
    selected = (entries.entry(config, name, dataset) for name in names)
    own = (entry for entry in selected if isinstance(entry, MethodEntry))
    trained = (entries.trained_method(config, entry.name, dataset) for entry in own)
    grids: set[int | str] = {1, *(entry.grid for entry in trained)}
    return sorted(grids, key=lambda grid: (isinstance(grid, str), grid))  # full comes last


def _controls_of(config: Config, dataset: str, model: str, grid: int | str) -> list[Control]:
    """The controls as seen through one grid."""
    data = preparation(config, dataset)
    options = config["model_options"][model]
    training, evaluation = (
        entries.settings(config, section, dataset, model)["split"] for section in ("training", "evaluation")
    )
    content = {
        "dataset": data.digest,
        "model": [model, options["output_stride"], options["align_corners"]],
        "training": training,
        "evaluation": evaluation,
        "recipe": recipes.SCORING.number,
    }
    if options["input_multiple"] == 1:  # cells are stretched; otherwise how far images are padded is the same
        content["padded"] = False
    if grid != 1:
        content["grid"] = grid
    code, built = digest(content), _model_options(config, model)
    results = Path(config["results"])
    return [Control(data, model, built, name, training, evaluation, code, results, grid) for name in CONTROLS]


def check_selection(config: Config, **names: Any) -> None:
    """Refuses a dataset, model, method or seed that the configuration does not know.

    Raises:
        UserError: A name is unknown; the sentence names the choices.
    """
    choices = {
        "dataset": config["datasets"],
        "model": config["models"],
        "method": [*config["methods"], *_trained_only(config)],
        "seed": config["seeds"],
    }
    for kind, name in names.items():
        if name not in choices[kind]:
            listed = ", ".join(map(str, choices[kind]))
            raise UserError(f"--{kind}: {name!r} is not in the configuration; choose from {listed}")


def _trained_only(config: Config) -> Iterator[str]:
    """Entries that are trained because others reuse their models, but are not runs themselves."""
    trained = {
        trained.name
        for name in config["methods"]
        for dataset in config["datasets"]
        if isinstance(entries.entry(config, name, dataset), MethodEntry)
        for trained in entries.trained_methods(config, name, dataset)
    }
    yield from sorted(trained - {*config["methods"]})


def _identity(entry: MethodEntry) -> list[Any]:
    return [entry.module, entry.options, code_digest(entry.module)]
