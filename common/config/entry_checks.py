"""What the schema cannot say of entries of methods: names that must be known, changes that must fit.

Every function raises a `UserError` with a sentence about the first thing that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import methods
from common.config.checks import check_dataset_name, check_fit, check_partial
from common.config.entries import (
    Config,
    entry,
    method_names,
    model_options,
    own_options,
    settings,
    trained_methods,
)
from common.config.method_entry import DEFINING, SECTIONS, MethodEntry, PredictionsEntry
from common.config.method_facts import method_facts
from common.config.schema import shown, unknown
from common.errors import UserError

OF_NETWORKS_ALIKE = (
    "output_stride",
    "input_multiple",
    "dilation",
    "atrous_rates",
    "dropout",
    "decoder_dropout",
    "align_corners",
    "freeze_batchnorm",
    "batchnorm_momentum",
    "head_batchnorm_momentum",
)
"""The options of models that may differ where one network starts with the weights of another."""

SPLITS = {
    "training": "trained on the same images, but for what is fitted after a frozen network",
    "evaluation": "scored on the same images",
}
"""What all rows of a table have in common."""


def check_methods(config: Config) -> None:
    """Checks all method entries, also those that are not run, on every dataset that is."""
    for name, options in config["method_options"].items():
        for dataset_name in options.get("per_dataset", {}):
            check_dataset_name(config, f"method_options.{name}.per_dataset", dataset_name)
        _check_module(name, options)
        _check_changes(name, options)
    names = sorted({*config["methods"], *config["method_options"]})
    for name, dataset_name in itertools.product(names, config["datasets"]):
        meaning = entry(config, name, dataset_name)
        if isinstance(meaning, MethodEntry):
            _check_models(config, meaning, dataset_name)
    for dataset_name in config["datasets"]:
        for name in [*config["methods"], *config["tuning"]["methods"]]:
            _check_trainings(config, name, dataset_name)
    baseline = config["tables"]["baseline"]
    if baseline not in method_names(config):
        raise UserError(unknown("tables.baseline", baseline, "method", method_names(config)))


def _check_module(name: str, options: Mapping[str, Any]) -> None:
    """Checks that no entry has the name of another method, under which tables would show it."""
    other = next((key for key in ("predictions", "ensemble") if key in options), options.get("module", name))
    if other != name and name in methods.names():
        raise UserError(
            f"method_options.{name}: there is a methods/{name}.py, and this entry is another method: give it "
            "another name"
        )


def _check_changes(name: str, options: Mapping[str, Any]) -> None:
    """Checks the settings that an entry changes, everywhere and per dataset, each by itself."""
    for place, own in _layers(name, options):
        if len(place) > 2:
            for key in DEFINING:
                if key in own:
                    raise UserError(
                        f"{'.'.join(place)}.{key}: an entry is one method on all datasets: set it for all"
                    )
        for section in SECTIONS:
            changes = own.get(section, {})
            if "split" in changes and section in SPLITS and not _is_fitted(section, options):
                raise UserError(
                    f"{'.'.join(place)}.{section}.split: all rows of a table are {SPLITS[section]}: "
                    "leave it out"
                )
            if changes:
                check_partial(changes, section, [*place, section])


def _is_fitted(section: str, options: Mapping[str, Any]) -> bool:
    """Whether an entry may have images of its own: the network learns nothing of them."""
    return section == "training" and options.get("freeze") == "network"


def _layers(name: str, options: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], Mapping[str, Any]]]:
    """What an entry sets, with its place: everywhere, and per dataset."""
    yield ["method_options", name], options
    for dataset_name, own in options.get("per_dataset", {}).items():
        yield ["method_options", name, "per_dataset", dataset_name], own


def _check_models(config: Config, own: MethodEntry, dataset_name: str) -> None:
    """Checks where the model of an entry comes from."""
    place = f"method_options.{own.name}"
    if own.ensemble:
        return
    if own.trained_as:
        other = _trained(config, f"{place}.trained_as", own.trained_as, dataset_name)
        if not method_facts(own.module).acts_after:
            _check_same(config, own, other, dataset_name)
        for key, value in (("start", own.start), ("training", own.training), ("model", own.model)):
            if value:
                raise UserError(
                    f"{place}.{key}: {own.name} trains no model itself, but uses that of {own.trained_as}: "
                    "leave it out, or set it there"
                )
    if own.freeze and not own.start:
        raise UserError(f"{place}.freeze: what is frozen must be trained before: name by start what begins")
    chain = [own]
    while chain[-1].start:
        last = chain[-1]
        names = [*(one.name for one in chain), str(last.start)]
        if last.start in names[:-1]:
            raise UserError(f"{place}.start: {' → '.join(names)} is a circle: let one of them start anew")
        chain.append(_trained(config, f"method_options.{last.name}.start", names[-1], dataset_name))


def _check_same(config: Config, own: MethodEntry, other: MethodEntry, dataset_name: str) -> None:
    """Checks that an entry that does nothing with another's model claims to be nothing else."""
    place = f"method_options.{own.name}"
    if own.module != other.module:
        raise UserError(
            f"{place}.trained_as: methods/{own.module}.py does nothing after the network, so this would be "
            f"{other.name} under another name: remove trained_as, or write start: {other.name} to go on from "
            "that model"
        )
    for key in own_options(config, own.name, dataset_name):
        if own.options[key] != other.options[key]:
            raise UserError(
                f"{place}.{key}: {shown(own.options[key])} has no effect: the model of {other.name} has "
                f"{shown(other.options[key])}, and methods/{own.module}.py does nothing after the network: "
                "leave it out, or remove trained_as"
            )


def _trained(config: Config, place: str, name: str, dataset_name: str) -> MethodEntry:
    """The entry whose trained model another uses, if it is one that is trained."""
    if name not in method_names(config):
        raise UserError(unknown(place, name, "method", method_names(config)))
    other = entry(config, name, dataset_name)
    if isinstance(other, PredictionsEntry):
        raise UserError(f"{place}: {other.name} is read from a folder: name a method that is trained")
    if other.trained_as:
        raise UserError(
            f"{place}: {other.name} trains no model itself: name {other.trained_as}, whose model it uses"
        )
    return other


def _check_trainings(config: Config, name: str, dataset_name: str) -> None:
    """Checks that what is changed fits the rest, with every model, in all that is trained for an entry."""
    gpus = config["execution"]["gpus_per_run"]
    if name not in method_names(config) or isinstance(entry(config, name, dataset_name), PredictionsEntry):
        return
    trained = trained_methods(config, name, dataset_name)
    for own, model in itertools.product(trained, config["models"]):
        model_options(config, model, own)
        if own.training:
            training = settings(config, "training", dataset_name, model, own)
            check_fit(training, dataset_name, gpus, f"method_options.{own.name}.training")
    for (own, other), model in itertools.product(itertools.pairwise(trained), config["models"]):
        _check_alike(config, own, other, model)


def _check_alike(config: Config, own: MethodEntry, other: MethodEntry, model: str) -> None:
    """Checks that the network of an entry can have the weights of that which it starts from."""
    before, now = (model_options(config, model, one) for one in (other, own))
    for key, value in now.items():
        if value != before[key] and key not in OF_NETWORKS_ALIKE:
            raise UserError(
                f"method_options.{own.name}.start: the network of {other.name} is another one ({key} "
                f"{shown(before[key])}, not {shown(value)}): give both the same"
            )
