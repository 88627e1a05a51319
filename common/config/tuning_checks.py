"""What the schema cannot say of the section `tuning`.

Every function raises a `UserError` with a sentence about the first thing that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from common.config import tuning
from common.config.checks import check_partial
from common.config.entries import (
    Config,
    dataset,
    entry,
    method_names,
    parts,
    settings,
    trained_methods,
)
from common.config.method_entry import MethodEntry, PredictionsEntry
from common.config.method_facts import method_facts
from common.config.options import complete_options
from common.config.schema import unknown
from common.config.skips import skip_reason
from common.config.tuning import TRAINING, Grid
from common.errors import UserError

MOST_CANDIDATES = 10_000
"""Combinations of a grid: what is more was not meant."""

SAME_FOR_ALL = {
    "split": "what is trained on is the same for all",
    "hold_out": "what is trained on is the same for all",
    "iterations": "they are the budget, which is the same for all",
}
"""Settings of training that are none of an entry's own, and why."""


def check_sizes(config: Config) -> None:
    """Checks that grids are no larger than can be planned, and are lists as they must be."""
    for name, grid in tuning.grids(config).items():
        place = f"tuning.methods.{name}"
        for key, values in grid.items():
            if len({isinstance(value, list) for value in values}) > 1 or [] in values:
                raise UserError(f"{place}.{key}: give either values, or a list of values for each number")
        candidates = tuning.size(grid)
        if candidates > MOST_CANDIDATES:
            raise UserError(
                f"{place}: it has {candidates} combinations: leave values out until there are at most "
                f"{MOST_CANDIDATES}"
            )


def check_tuning(config: Config) -> None:
    """Checks the searches that `tuning` describes: their rounds, entries, and values each by itself."""
    rungs = config["tuning"]["rungs"]
    if rungs != sorted({*rungs}) or rungs[-1] != 1:
        raise UserError(
            f"tuning.rungs: {rungs} must be shares of the iterations that grow and end with 1, such as "
            "[0.25, 0.5, 1]"
        )
    check_sizes(config)
    for name, grid in tuning.grids(config).items():
        if name not in method_names(config):
            raise UserError(unknown("tuning.methods", name, "method", method_names(config)))
        for dataset_name in config["datasets"]:
            _check_entry(name, grid, entry(config, name, dataset_name))


def _check_entry(name: str, grid: Grid, meaning: MethodEntry | PredictionsEntry) -> None:
    """Checks that an entry is one whose settings can be tried, and that it has those of the grid."""
    place = f"tuning.methods.{name}"
    if isinstance(meaning, PredictionsEntry):
        raise UserError(f"{place}: {name} is read from a folder: there is nothing to try")
    if meaning.ensemble:
        raise UserError(f"{place}: {name} is an ensemble: tune {meaning.ensemble.of}, which its members are")
    for key, values in grid.items():
        if key.startswith(TRAINING):
            _check_training(place, key, values, meaning)
            continue
        numbers = [tuning.multiplied(value, meaning.options.get(key)) for value in values]
        for combination in tuning.combinations({key: numbers}):
            options = method_facts(meaning.module).options
            complete_options(place, meaning.options | combination, options)


def _check_training(place: str, key: str, values: Sequence[Any], meaning: MethodEntry) -> None:
    """Checks values of a setting of training."""
    setting = key.removeprefix(TRAINING)
    if meaning.trained_as:
        raise UserError(
            f"{place}.{key}: {meaning.name} uses the model of {meaning.trained_as} and trains none: tune that"
        )
    if setting in SAME_FOR_ALL:
        raise UserError(f"{place}.{key}: {SAME_FOR_ALL[setting]}: leave it out")
    numbers = [tuning.multiplied(value, 1) for value in values]
    for combination in tuning.combinations({setting: numbers}):
        check_partial(combination, "training", [*place.split("."), "training"])


def check_searches(config: Config) -> None:
    """Checks what only searches need: something to try, and images to try it on that are not scored."""
    if not tuning.searched(config):
        raise UserError(
            "tuning.methods: it has nothing to try of any of the methods: name one and values, such as "
            "{crf-5: {gaussian: [[1, 3], [1, 3]]}}"
        )
    wanted = tuning.settings(config)
    if wanted.seed in config["seeds"]:
        raise UserError(
            f"tuning.seed: {wanted.seed} is among the seeds whose results are shown, which no search may "
            "have seen: choose another"
        )
    if wanted.hold_out is None:
        for pair in itertools.product(config["datasets"], config["models"]):
            _check_split(config, *pair)
            for name in tuning.searched(config):
                _check_fitted(config, name, *pair)


def _check_split(config: Config, dataset_name: str, model: str) -> None:
    """Checks that candidates are tried on a split that is neither scored nor trained on."""
    place, split = f"tuning.split (for {dataset_name})", config["tuning"]["split"]
    data = dataset(config, dataset_name)
    tried = {*parts(place, data, split)}
    for section, what in (("evaluation", "what the tables score"), ("training", "what is trained on")):
        used = data.parts(settings(config, section, dataset_name, model)["split"])
        if tried & {*used}:
            raise UserError(
                f"{place}: {split} is {what}: choose another, or set tuning.hold_out to the share of the "
                "training images to validate on, such as 0.1"
            )


def _check_fitted(config: Config, name: str, dataset_name: str, model: str) -> None:
    """Checks that no candidates of an entry are tried on the images that it is fitted on."""
    if skip_reason(config, name, dataset_name, model) is not None:
        return
    data, split = dataset(config, dataset_name), config["tuning"]["split"]
    for trained in trained_methods(config, name, dataset_name):
        own = trained.training.get("split")
        if own is not None and {*data.parts(split)} & {*data.parts(own)}:
            raise UserError(
                f"tuning.split (for {dataset_name}): {split} is what {trained.name} is fitted on: leave "
                f"{name} out of tuning.methods, or set tuning.hold_out to the share of images to validate "
                "on, such as 0.1"
            )
