"""What the schema cannot say: names that must be known, and settings that must fit each other.

Every function raises a `UserError` with a sentence about the first thing that is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import methods
from common import datasets
from common.config.entries import (
    Config,
    MethodEntry,
    PredictionsEntry,
    dataset,
    dataset_module,
    dataset_names,
    downloadable,
    entry,
    method_names,
    parts,
    settings,
    tuning_grid,
    tuning_split,
)
from common.config.method_facts import method_facts
from common.config.options import complete_options
from common.config.schema import schema, unknown, validate
from common.errors import UserError

MOST_RUNS = 100_000
MOST_CANDIDATES = 10_000
MOST_PIXELS = 4 * 2**30
"""Runs of a benchmark, combinations of a search, and pixels of a batch: what is more was not meant."""


def check_sizes(config: Config) -> None:
    """Checks that a configuration does not ask for more than can be planned.

    Args:
        config: The configuration, which fits the schema.
    """
    runs = math.prod(len(config[section]) for section in ("datasets", "models", "methods", "seeds"))
    if runs > MOST_RUNS:
        raise UserError(
            f"the configuration: datasets, models, methods and seeds make {runs} runs: give fewer, at most "
            f"{MOST_RUNS}"
        )
    grid = config["tuning"]["grid"]
    candidates = math.prod(_choices(values) for values in grid.values())
    if candidates > MOST_CANDIDATES:
        raise UserError(
            f"tuning.grid: it has {candidates} combinations: leave values out until there are at most "
            f"{MOST_CANDIDATES}"
        )


def _choices(values: Sequence[Any]) -> int:
    """How many values of an option a grid has: all combinations, if it has some of each of its numbers."""
    return math.prod(map(len, values)) if all(isinstance(value, list) for value in values) else len(values)


def check_overrides(config: Config, section: str) -> None:
    """Checks what a section sets per dataset and model: like its other settings, but without defaults.

    Args:
        config: The configuration, otherwise complete.
        section: `training` or `evaluation`.
    """
    properties = schema()["$defs"][section]["properties"]
    partial = {
        "$defs": schema()["$defs"],
        "type": "object",
        "additionalProperties": False,
        "properties": {key: value for key, value in properties.items() if not key.startswith("per_")},
    }
    for kind in ("per_dataset", "per_model"):
        for name, override in config[section][kind].items():
            if kind == "per_dataset":
                _check_dataset_name(config, f"{section}.{kind}", name)
            validate(override, partial, place=[section, kind, name])


def check_training(config: Config) -> None:
    """Checks that the settings of training fit each other, for every dataset and model."""
    for name, model in itertools.product(config["datasets"], config["models"]):
        training = settings(config, "training", name, model)
        _check_geometry(training, name)
        if training["warmup"] >= training["iterations"]:
            raise UserError(
                f"training.warmup (for {name}): {training['warmup']} must be less than the "
                f"{training['iterations']} iterations"
            )
        check_share(name, training["batch_size"], config["execution"]["gpus_per_run"])


def _check_geometry(training: dict[str, Any], name: str) -> None:
    """Checks that scale and crop of a dataset fit each other."""
    low, high = training["scale"]
    if low > high:
        raise UserError(f"training.scale (for {name}): {low} is greater than {high}: swap them")
    height, width = training["crop"] or (0, 0)
    if training["batch_size"] * height * width > MOST_PIXELS:
        raise UserError(
            f"training.batch_size (for {name}): {training['batch_size']} crops of {height}×{width} are too "
            "large a batch: lower it or training.crop"
        )
    if low != high and not training["crop"]:
        raise UserError(f"training.crop (for {name}): images of random scale need one: give [height, width]")


def check_share(dataset_name: str, batch_size: int, gpus: int) -> None:
    """Checks that so many GPUs can have equal shares of a batch.

    Args:
        dataset_name: What is trained on, for the message.
        batch_size: Images per batch.
        gpus: How many GPUs train together.
    """
    if batch_size % gpus:
        raise UserError(
            f"training.batch_size (for {dataset_name}): {batch_size} images cannot be shared equally by "
            f"{gpus} GPUs: choose a multiple of execution.gpus_per_run"
        )


def check_splits(config: Config, name: str) -> None:
    """Checks that a dataset has the splits that are trained on and scored, and that none is both."""
    data = dataset(config, name)
    for model in config["models"]:
        trained, scored = (
            parts(f"{section}.split (for {name})", data, settings(config, section, name, model)["split"])
            for section in ("training", "evaluation")
        )
        both = sorted({*trained} & {*scored})
        if both:
            raise UserError(
                f"evaluation.split (for {name}): {both[0]} is also trained on: score another split"
            )


def check_methods(config: Config) -> None:
    """Checks all method entries, also those that are not run, on every dataset that is."""
    for name, options in config["method_options"].items():
        for dataset_name in options.get("per_dataset", {}):
            _check_dataset_name(config, f"method_options.{name}.per_dataset", dataset_name)
        _check_module(name, options)
    names = sorted({*config["methods"], *config["method_options"]})
    for name, dataset_name in itertools.product(names, config["datasets"]):
        meaning = entry(config, name, dataset_name)
        if isinstance(meaning, MethodEntry) and meaning.trained_as:
            _check_trained_as(config, meaning, dataset_name)
    baseline = config["tables"]["baseline"]
    if baseline not in method_names(config):
        raise UserError(unknown("tables.baseline", baseline, "method", method_names(config)))


def _check_module(name: str, options: Mapping[str, Any]) -> None:
    """Checks that no entry has the name of another method, under which tables would show it."""
    other = options.get("module", "predictions" if "predictions" in options else name)
    if other != name and name in methods.names():
        raise UserError(
            f"method_options.{name}: there is a methods/{name}.py, and this entry is another method: give it "
            "another name"
        )


def _check_trained_as(config: Config, reusing: MethodEntry, dataset_name: str) -> None:
    """Checks that the model that an entry reuses is one that is trained."""
    place = f"method_options.{reusing.name}.trained_as"
    if reusing.trained_as not in method_names(config):
        raise UserError(unknown(place, reusing.trained_as, "method", method_names(config)))
    other = entry(config, str(reusing.trained_as), dataset_name)
    if isinstance(other, PredictionsEntry):
        raise UserError(f"{place}: {other.name} is read from a folder: name a method that is trained")
    if other.trained_as:
        raise UserError(
            f"{place}: {other.name} trains no model itself: name {other.trained_as}, whose model it uses"
        )


def check_tuning(config: Config) -> None:
    """Checks the search that `tuning` describes, if it names a method."""
    name, grid = config["tuning"]["method"], config["tuning"]["grid"]
    if name is None:
        return
    if name not in method_names(config):
        raise UserError(unknown("tuning.method", name, "method", method_names(config)))
    for option, values in grid.items():
        if len({isinstance(value, list) for value in values}) > 1 or [] in values:
            raise UserError(f"tuning.grid.{option}: give either values, or a list of values for each number")
    for dataset_name in config["datasets"]:
        meaning = entry(config, name, dataset_name)
        if isinstance(meaning, PredictionsEntry) or not meaning.trained_as:
            raise UserError(f"tuning.method: {name} refines no other method's output; name one that does")
        for options in tuning_grid(config):
            complete_options("tuning.grid", options, method_facts(meaning.module).options)


def check_tuning_splits(config: Config) -> None:
    """Checks what only a search needs: a method to tune, and a split to tune it on that is not scored."""
    if config["tuning"]["method"] is None:
        raise UserError("tuning.method: name the method whose options are to be tried, such as crf-5")
    for pair in itertools.product(config["datasets"], config["models"]):
        tuning_split(config, *pair)


def check_downloads(config: Config) -> None:
    """Checks that the files of `download` are those of a dataset."""
    names = downloadable(config)
    archives = [datasets.load(dataset_module(config, name)).archives for name in names]
    archives += [dataset(config, name).archives for name in names]  # of the layout that is set
    known = sorted({archive.name for group in archives for archive in group})
    for name in config["download"]["files"]:
        if name not in known:
            raise UserError(unknown("download.files", name, "file", known))


def _check_dataset_name(config: Config, place: str, name: str) -> None:
    """Checks the name of a dataset that something is set for."""
    if name not in dataset_names(config):
        raise UserError(unknown(place, name, "dataset", dataset_names(config)))
