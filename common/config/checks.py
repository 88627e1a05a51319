"""What the schema cannot say: names that must be known, and settings that must fit each other.

Every function raises a `UserError` with a sentence about the first thing that is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from common import datasets
from common.config.entries import (
    Config,
    dataset,
    dataset_module,
    dataset_names,
    downloadable,
    parts,
    settings,
)
from common.config.schema import schema, unknown, validate
from common.errors import UserError

MOST_RUNS = 100_000
MOST_PIXELS = 4 * 2**30
"""Runs of a benchmark, and pixels of a batch: what is more was not meant."""


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


def check_overrides(config: Config, section: str) -> None:
    """Checks what a section sets per dataset and model: like its other settings, but without defaults.

    Args:
        config: The configuration, otherwise complete.
        section: `training` or `evaluation`.
    """
    for kind in ("per_dataset", "per_model"):
        for name, override in config[section][kind].items():
            if kind == "per_dataset":
                check_dataset_name(config, f"{section}.{kind}", name)
            check_partial(override, section, [section, kind, name])


def check_partial(override: Mapping[str, Any], section: str, place: Sequence[str]) -> None:
    """Checks what goes before some settings of a section.

    Args:
        override: It.
        section: `training`, `evaluation` or `model`, as the schema calls it.
        place: Where it stands, for messages.
    """
    properties = schema()["$defs"][section]["properties"]
    partial = {
        "$defs": schema()["$defs"],
        "type": "object",
        "additionalProperties": False,
        "properties": {key: value for key, value in properties.items() if not key.startswith("per_")},
    }
    validate(override, partial, place=place)


def check_training(config: Config) -> None:
    """Checks that the settings of training fit each other, for every dataset and model."""
    for name, model in itertools.product(config["datasets"], config["models"]):
        check_fit(settings(config, "training", name, model), name, config["execution"]["gpus_per_run"])


def check_fit(training: Mapping[str, Any], name: str, gpus: int, place: str = "training") -> None:
    """Checks that the settings of one training fit each other.

    Args:
        training: The settings.
        name: The dataset, for messages.
        gpus: How many GPUs train together.
        place: Where they stand, for messages.
    """
    _check_geometry(training, name, place)
    if training["warmup"] >= training["iterations"]:
        raise UserError(
            f"{place}.warmup (for {name}): {training['warmup']} must be less than the "
            f"{training['iterations']} iterations"
        )
    check_share(name, training["batch_size"], gpus, place)


def _check_geometry(training: Mapping[str, Any], name: str, place: str) -> None:
    """Checks that scale and crop of a dataset fit each other."""
    low, high = training["scale"]
    if low > high:
        raise UserError(f"{place}.scale (for {name}): {low} is greater than {high}: swap them")
    height, width = training["crop"] or (0, 0)
    if training["batch_size"] * height * width > MOST_PIXELS:
        raise UserError(
            f"{place}.batch_size (for {name}): {training['batch_size']} crops of {height}×{width} are too "
            f"large a batch: lower it or {place}.crop"
        )
    if low != high and not training["crop"]:
        raise UserError(f"{place}.crop (for {name}): images of random scale need one: give [height, width]")


def check_share(dataset_name: str, batch_size: int, gpus: int, place: str = "training") -> None:
    """Checks that so many GPUs can have equal shares of a batch.

    Args:
        dataset_name: What is trained on, for the message.
        batch_size: Images per batch.
        gpus: How many GPUs train together.
        place: Where the settings of training stand, for the message.
    """
    if batch_size % gpus:
        raise UserError(
            f"{place}.batch_size (for {dataset_name}): {batch_size} images cannot be shared equally by "
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


def check_downloads(config: Config) -> None:
    """Checks that the files of `download` are those of a dataset."""
    names = downloadable(config)
    archives = [datasets.load(dataset_module(config, name)).archives for name in names]
    archives += [dataset(config, name).archives for name in names]  # of the layout that is set
    known = sorted({archive.name for group in archives for archive in group})
    for name in config["download"]["files"]:
        if name not in known:
            raise UserError(unknown("download.files", name, "file", known))


def check_dataset_name(config: Config, place: str, name: str) -> None:
    """Checks the name of a dataset that something is set for."""
    if name not in dataset_names(config):
        raise UserError(unknown(place, name, "dataset", dataset_names(config)))
