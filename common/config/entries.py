"""What the names of a configuration mean: datasets, method entries, settings with their overrides."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import methods
from common import compiler, datasets
from common.config.method_class import check_built, check_class
from common.config.method_facts import cannot_be_loaded, method_facts
from common.config.options import Option, complete_options, options_of
from common.config.schema import unknown
from common.datasets.judgement import FINDINGS
from common.errors import UserError
from common.images import foreign_predictions

if TYPE_CHECKING:
    from methods.base import Method

Config = dict[str, Any]
"""A configuration as it stands in files. Most functions here take a complete one (`reading.complete`)."""


@dataclass(frozen=True)
class MethodEntry:
    """A method as the configuration names it.

    Attributes:
        name: The name of the entry.
        module: The module of `methods/`.
        options: All options of the module, defaults included.
        trained_as: The entry whose trained model is reused, or None.
    """

    name: str
    module: str
    options: dict[str, Any]
    trained_as: str | None

    def with_options(self, options: Mapping[str, Any]) -> MethodEntry:
        """The entry with other values of some options."""
        return dataclasses.replace(self, options={**self.options, **options})

    def build(self, num_classes: int, feature_channels: int) -> Method:
        """Creates the method.

        Args:
            num_classes: K, the number of classes without void.
            feature_channels: C, the channels of the features in front of the classifier.

        Raises:
            UserError: The method cannot be built: it refuses an option, or is not as a method must be.
        """
        from common.networks.hooks import described, of_machine, place  # imports PyTorch

        try:
            with compiler.put_off():
                kind = methods.load(self.module)
            check_class(kind)
        except (Exception, SystemExit) as error:  # a user's own file may fail in any way
            raise cannot_be_loaded(self.module, error) from error
        try:
            built = kind(num_classes, feature_channels, **self.options)
        except ValueError as error:
            raise UserError(f"method_options.{self.name}: {error}") from error
        except Exception as error:
            if isinstance(error, UserError) or of_machine(error):
                raise
            raise UserError(
                f"{place(kind, error)}: __init__ fails with {described(error)} (method_options.{self.name})"
            ) from error
        try:
            check_built(built)
        except ValueError as error:
            raise UserError(f"methods/{self.module}.py: {error}") from None
        return built


@dataclass(frozen=True)
class PredictionsEntry:
    """A row of the tables that is read from a folder: the predictions of another system.

    Attributes:
        name: The name of the entry.
        folder: Where the predictions lie; it may have placeholders in braces.
        colour_coded: Whether they are drawn in the colours of the dataset's classes.
    """

    name: str
    folder: str
    colour_coded: bool = False


def dataset_names(config: Config) -> list[str]:
    """All names that `datasets` may list: the entries of `dataset_options` and the modules."""
    return sorted({*config["dataset_options"], *datasets.names()})


def downloadable(config: Config) -> list[str]:
    """The names of the datasets that `snakemake data_<name>` can get."""
    return [name for name in dataset_names(config) if datasets.load(dataset_module(config, name)).archives]


def dataset_module(config: Config, name: str) -> str:
    """The module of `common/datasets/` behind a dataset name."""
    return config["dataset_options"].get(name, {}).get("module", name)


def dataset(config: Config, name: str) -> datasets.Dataset:
    """Creates the dataset that the configuration calls `name`.

    Raises:
        UserError: There is no such dataset, or it refuses an option.
    """
    module = dataset_module(config, name)
    if module not in datasets.names():
        if name in config["dataset_options"]:
            place = f"dataset_options.{name}"
            raise UserError(unknown(place, module, "module of common/datasets/", datasets.names()))
        raise UserError(unknown("datasets", name, "dataset", dataset_names(config)))
    try:
        built = datasets.load(module)(**dataset_options(config, name))
    except (ValueError, TypeError) as error:
        raise UserError(f"dataset_options.{name}: {error}") from error
    built.entry = name
    built.allowed |= {*_allowed(config, name)}
    return built


def _allowed(config: Config, name: str) -> list[str]:
    """The findings of the prepare stage that a dataset is allowed to have.

    Raises:
        UserError: There is no such finding.
    """
    allowed = config["dataset_options"].get(name, {}).get("allow", [])
    place = f"dataset_options.{name}.allow"
    if not isinstance(allowed, list):
        raise UserError(f"{place} must be a list of {', '.join(FINDINGS)}, not {allowed!r}")
    for finding in allowed:
        if finding not in FINDINGS:
            raise UserError(unknown(place, finding, "finding", FINDINGS))
    return allowed


def dataset_options(config: Config, name: str) -> dict[str, Any]:
    """All options of a dataset, defaults included.

    Raises:
        UserError: An option is unknown or of the wrong type.
    """
    settings = config["dataset_options"].get(name, {})
    options = {key: value for key, value in settings.items() if key not in ("module", "allow")}
    known = _options_of_module(dataset_module(config, name))
    return complete_options(f"dataset_options.{name}", options, known)


@cache
def _options_of_module(module: str) -> tuple[Option, ...]:
    """The options of a module of `common/datasets/`."""
    return options_of(datasets.load(module))


def settings(config: Config, section: str, dataset: str, model: str) -> dict[str, Any]:
    """The settings of a section for one dataset and model, overrides applied.

    Args:
        config: The configuration.
        section: `training` or `evaluation`.
        dataset: Name of the dataset.
        model: Name of the model; what is set for it goes before what is set for the dataset.
    """
    merged = dict(config[section])
    per_dataset, per_model = merged.pop("per_dataset"), merged.pop("per_model")
    return merged | per_dataset.get(dataset, {}) | per_model.get(model, {})


def method_names(config: Config) -> list[str]:
    """All names that `methods` may list: the entries of `method_options` and the modules."""
    return sorted({*config["method_options"], *methods.names()})


def entry(config: Config, name: str, dataset: str) -> MethodEntry | PredictionsEntry:
    """What a method name means on a dataset.

    Raises:
        UserError: There is no such method, it cannot be loaded, or an option is wrong.
    """
    settings = dict(config["method_options"].get(name, {}))
    overrides = settings.pop("per_dataset", {})
    if "predictions" in settings:
        return _predictions_entry(name, settings | overrides.get(dataset, {}))
    module = settings.pop("module", name)
    if module not in methods.names():
        if name in config["method_options"]:
            place = f"method_options.{name}"
            raise UserError(unknown(place, module, "module of methods/", methods.names()))
        raise UserError(unknown("methods", name, "method", method_names(config)))
    facts = method_facts(module)
    trained_as = settings.pop("trained_as", facts.trained_as)
    settings |= overrides.get(dataset, {})
    options = complete_options(f"method_options.{name}", settings, facts.options)
    return MethodEntry(name, module, options, trained_as)


def method(config: Config, name: str, dataset: str) -> MethodEntry:
    """What the name of a method means on a dataset, unless it is one of predictions.

    Raises:
        UserError: It is one of predictions, or as `entry` does.
    """
    meaning = entry(config, name, dataset)
    if isinstance(meaning, PredictionsEntry):
        raise UserError(f"{name} is read from a folder: there is nothing to train or to measure")
    return meaning


def _predictions_entry(name: str, settings: Mapping[str, Any]) -> PredictionsEntry:
    """The entry of predictions that are read from a folder."""
    place = f"method_options.{name}"
    others = sorted({*settings} - {"predictions", "colour_coded"})
    if others:
        raise UserError(f"{place}: predictions are scored as they are; remove {', '.join(others)}")
    folder = settings["predictions"]
    try:
        foreign_predictions.check(folder)
    except ValueError as error:
        raise UserError(f"{place}.{error}") from None
    colour_coded = settings.get("colour_coded", False)
    if not isinstance(colour_coded, bool):
        raise UserError(f"{place}.colour_coded must be true or false, not {colour_coded!r}")
    return PredictionsEntry(name, folder, colour_coded)


def trained_method(config: Config, name: str, dataset: str) -> MethodEntry:
    """The method entry that is trained for `name`: itself, or the one it is `trained_as`.

    Raises:
        UserError: It is one of predictions, or as `entry` does.
    """
    own = method(config, name, dataset)
    return method(config, own.trained_as, dataset) if own.trained_as else own


def tuning_split(config: Config, dataset_name: str, model: str) -> str:
    """The split that options are tried on.

    Raises:
        UserError: The dataset has none of that name, or the tables score it.
    """
    place, split = f"tuning.split (for {dataset_name})", config["tuning"]["split"]
    data = dataset(config, dataset_name)
    scored = data.parts(settings(config, "evaluation", dataset_name, model)["split"])
    if {*parts(place, data, split)} & {*scored}:
        raise UserError(f"{place}: {split} is what the tables score: choose another")
    return split


def tuning_grid(config: Config) -> list[dict[str, Any]]:
    """The options of every candidate of `tuning.grid`."""
    grid = dict(sorted(config["tuning"]["grid"].items()))  # a digest knows no order
    choices = [
        [list(x) for x in itertools.product(*values)] if isinstance(values[0], list) else values
        for values in grid.values()
    ]
    return [dict(zip(grid, candidate)) for candidate in itertools.product(*choices)]


def parts(place: str, dataset: datasets.Dataset, split: str) -> list[str]:
    """The splits of a dataset that a setting names.

    Args:
        place: Where the setting stands, for messages.
        dataset: The dataset.
        split: The setting.

    Raises:
        UserError: The dataset has no such split.
    """
    try:
        return dataset.parts(split)
    except KeyError as error:
        raise UserError(unknown(place, error.args[0], "split", dataset.split_names())) from None
