"""What the names of a configuration mean: datasets, method entries, settings with their overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import methods
from common import datasets
from common.config.method_entry import KEYS, SECTIONS, Ensemble, MethodEntry, PredictionsEntry
from common.config.method_facts import MethodFacts, method_facts
from common.config.options import Option, complete_options, options_of
from common.config.schema import plain_numbers, unknown
from common.datasets.judgement import FINDINGS
from common.errors import UserError
from common.images import foreign_predictions
from common.networks import architectures

Config = dict[str, Any]
"""A configuration as it stands in files. Most functions here take a complete one (`reading.complete`)."""


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


def settings(
    config: Config, section: str, dataset: str, model: str, entry: MethodEntry | None = None
) -> dict[str, Any]:
    """The settings of a section for one dataset and model, overrides applied.

    Args:
        config: The configuration.
        section: `training` or `evaluation`.
        dataset: Name of the dataset.
        model: Name of the model; what is set for it goes before what is set for the dataset.
        entry: The method entry, if it is about one; what it sets goes before both.
    """
    merged = dict(config[section])
    per_dataset, per_model = merged.pop("per_dataset"), merged.pop("per_model")
    own = getattr(entry, section) if entry else {}
    return merged | per_dataset.get(dataset, {}) | per_model.get(model, {}) | own


def model_options(config: Config, model: str, entry: MethodEntry | None = None) -> dict[str, Any]:
    """The options of a model, with those that a method entry changes.

    Args:
        config: The configuration.
        model: Name of the model.
        entry: The method entry, if it is about one.

    Raises:
        UserError: The model cannot have such an option.
    """
    options = config["model_options"][model]
    if not entry or not entry.model:
        return dict(options)
    try:
        return plain_numbers(architectures.altered(model, options, entry.model))
    except UserError as error:
        own = f"method_options.{entry.name}.model"
        raise UserError(str(error).replace(f"model_options.{model}", own, 1)) from None


def method_names(config: Config) -> list[str]:
    """All names that `methods` may list: the entries of `method_options` and the modules."""
    return sorted({*config["method_options"], *methods.names()})


def entry(config: Config, name: str, dataset: str) -> MethodEntry | PredictionsEntry:
    """What a method name means on a dataset.

    Raises:
        UserError: There is no such method, it cannot be loaded, or an option is wrong.
    """
    own = _laid(config["method_options"].get(name, {}), dataset)
    if "predictions" in own:
        return _predictions_entry(name, own)
    if "ensemble" in own:
        return _ensemble_entry(config, name, own, dataset)
    module = own.get("module", name)
    if module not in methods.names():
        if name in config["method_options"]:
            place = f"method_options.{name}"
            raise UserError(unknown(place, module, "module of methods/", methods.names()))
        raise UserError(unknown("methods", name, "method", method_names(config)))
    facts = method_facts(module)
    _check_names_of_options(facts)
    return MethodEntry(
        name,
        module,
        complete_options(f"method_options.{name}", own_options(config, name, dataset), facts.options),
        own.get("trained_as", facts.trained_as or _evaluated_otherwise(name, module, own)),
        **{section: own.get(section, {}) for section in SECTIONS},
        start=own.get("start"),
        freeze=own.get("freeze"),
        tuned=own.get("tuned"),
        skip=own.get("skip", {}),
    )


def own_options(config: Config, name: str, dataset: str) -> dict[str, Any]:
    """The options of its method that an entry itself sets on a dataset, as the configuration has them."""
    own = _laid(config["method_options"].get(name, {}), dataset)
    return {key: value for key, value in own.items() if key not in KEYS}


def _check_names_of_options(facts: MethodFacts) -> None:
    """Refuses options that a configuration could never set.

    Raises:
        UserError: A method has one that is called like a key of entries.
    """
    for option in facts.options:
        if option.name in KEYS:
            raise UserError(
                f"methods/{facts.module}.py: {option.name} is a key of all entries in method_options: "
                "give the option another name"
            )


def _laid(own: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """What an entry sets, with what it sets for a dataset laid over it."""
    over = own.get("per_dataset", {}).get(dataset, {})
    merged = {key: {**own.get(key, {}), **over[key]} for key in SECTIONS if key in over}
    return {key: value for key, value in own.items() if key != "per_dataset"} | over | merged


def _evaluated_otherwise(name: str, module: str, own: Mapping[str, Any]) -> str | None:
    """The entry whose model one uses that changes how it is evaluated, and nothing else; None for others."""
    alone = {*own} <= {"module", "evaluation", "tuned", "skip"} and own.get("evaluation")
    return module if alone and name != module else None


def _ensemble_entry(config: Config, name: str, own: Mapping[str, Any], dataset: str) -> MethodEntry:
    """The entry of an ensemble: the method of its members, whose models it uses.

    Raises:
        UserError: It is none of a method that is trained, or it sets what its members have.
    """
    place, ensemble = f"method_options.{name}", Ensemble(**own["ensemble"])
    others = sorted({*own} - {"ensemble", "evaluation", "tuned", "skip"})
    if others:
        raise UserError(
            f"{place}: the members of an ensemble are as {ensemble.of} says: remove {', '.join(others)}"
        )
    if ensemble.of == name or "ensemble" in config["method_options"].get(ensemble.of, {}):
        raise UserError(f"{place}.ensemble.of: {ensemble.of} is an ensemble: name what its members are")
    if ensemble.of not in method_names(config):
        raise UserError(unknown(f"{place}.ensemble.of", ensemble.of, "method", method_names(config)))
    one = entry(config, ensemble.of, dataset)
    if isinstance(one, PredictionsEntry):
        raise UserError(
            f"{place}.ensemble.of: {one.name} is read from a folder: name a method that is trained"
        )
    return dataclasses.replace(
        one,
        name=name,
        trained_as=one.trained_as or one.name,
        training={},
        evaluation=one.evaluation | own.get("evaluation", {}),
        model={},
        start=None,
        freeze=None,
        ensemble=ensemble,
        tuned=own.get("tuned"),
        skip=one.skip | own.get("skip", {}),
    )


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


def trained_methods(config: Config, name: str, dataset: str) -> list[MethodEntry]:
    """All method entries that are trained for `name`: as of `trained_method`, and what that starts from.

    Raises:
        UserError: As `trained_method` does.
    """
    trained = [trained_method(config, name, dataset)]
    while trained[-1].start:
        trained.append(method(config, trained[-1].start, dataset))
    return trained


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
