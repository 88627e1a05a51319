"""The configuration: read, merged, completed with defaults, and refused if anything is wrong in it."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
import itertools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match

import methods
from common import architectures, datasets, predictions
from common.errors import UserError

Config = dict[str, Any]

SCHEMA = Path(__file__).resolve().parent.parent / "workflow/schemas/config.schema.yaml"


@dataclass(frozen=True)
class MethodEntry:
    """A method as the configuration names it.

    Attributes:
        name: The name of the entry.
        module: The module of `methods/`.
        options: All options of the module, defaults included.
        trained_as: The entry whose trained model is reused, or None.
        predictions: The folder that predictions are read from, instead of all that; or None.
    """

    name: str
    module: str
    options: dict[str, Any]
    trained_as: str | None
    predictions: str | None = None

    def with_options(self, options: Mapping[str, Any]) -> MethodEntry:
        """The same with other values of some options."""
        return dataclasses.replace(self, options=self.options | options)

    def build(self, num_classes: int, feature_channels: int) -> methods.Method:
        """Creates the method.

        Raises:
            UserError: The method refuses an option.
        """
        try:
            return methods.load(self.module)(num_classes, feature_channels, **self.options)
        except (ValueError, TypeError) as error:
            raise UserError(f"method_options.{self.name}: {error}") from error


# Reading


def load(files: Iterable[Path]) -> Config:
    """Reads configuration files, later ones over earlier ones, and completes the result.

    Mappings are merged and lists replaced, as Snakemake does with several `--configfile`s.

    Raises:
        UserError: A file cannot be read or something in it is wrong.
    """
    merged: Config = {}
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        except yaml.YAMLError as error:
            raise UserError(f"{file} is no valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(f"{file} must be a mapping of keys to settings")
        merged = merge(merged, content)
    return complete(merged)


def merge(base: Config, over: Mapping[str, Any]) -> Config:
    """`over` laid on `base`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def typed(content: Any) -> Any:
    """Turns texts that are numbers, booleans or null into these.

    Snakemake leaves the scalars inside a `--config` mapping or list as texts.
    """
    if isinstance(content, Mapping):
        return {key: typed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [typed(value) for value in content]
    if isinstance(content, str) and content:
        try:
            value = yaml.safe_load(content)
        except yaml.YAMLError:
            return content
        return value if isinstance(value, int | float | None) else content
    return content


def _plain_numbers(content: Any, place: str = "") -> Any:
    """A copy in which texts like 1e-3 are numbers (YAML 1.1 only knows 1.0e-3) and 2.0 is 2.

    Raises:
        UserError: A number is not finite.
    """
    inner = f"{place}." if place else ""
    if isinstance(content, Mapping):
        return {key: _plain_numbers(value, f"{inner}{key}") for key, value in content.items()}
    if isinstance(content, list):
        return [_plain_numbers(value, f"{inner}{i}") for i, value in enumerate(content)]
    if isinstance(content, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", content):
        content = float(content)
    if isinstance(content, float):
        if not math.isfinite(content):
            raise UserError(f"{place}: {content} is not a finite number")
        return int(content) if content.is_integer() else content
    return content


def complete(config: Config) -> Config:
    """Checks a configuration and fills in all defaults.

    Raises:
        UserError: Something is wrong; the sentence names the entry and the valid choices.
    """
    config = _plain_numbers(config)
    models, options = config.get("models"), config.setdefault("model_options", {})
    if isinstance(models, list) and isinstance(options, dict):
        for model in models:
            if isinstance(model, str):
                options.setdefault(model, {})
    _validate(config, _schema(), filling=True)
    for model, options in config["model_options"].items():
        config["model_options"][model] = architectures.settled(model, options)
    config = _plain_numbers(config)  # the defaults too
    for name in config["datasets"]:
        _check_splits(config, name, dataset(config, name))
    for section in ("training", "evaluation"):
        _check_overrides(config, section)
    for name in config["dataset_options"]:
        dataset(config, name)
    _check_method_overrides(config)
    names = {*config["methods"], *config["method_options"]}
    for name, dataset_name in itertools.product(sorted(names), config["datasets"]):
        entry = method(config, name, dataset_name)
        if entry.trained_as:
            _check_trained_as(config, entry, dataset_name)
    _check_tuning(config)
    _check_downloads(config)
    baseline = config["tables"]["baseline"]
    if baseline not in method_names(config):
        raise UserError(_unknown("tables.baseline", baseline, "method", method_names(config)))
    return config


def check_values(config: Config) -> None:
    """Checks what takes seconds and so is done once: that models and methods can be built.

    Raises:
        UserError: Something is wrong; the sentence names the entry.
    """
    from common import models

    overridden = [config[section]["per_model"] for section in ("training", "evaluation")]
    for model in {*config["models"], *config["model_options"]}.union(*overridden):
        models.check_name(model)
    for name in config["datasets"]:
        num_classes = len(dataset(config, name).class_names)
        for entry in config["methods"]:
            if method(config, entry, name).predictions:
                continue
            method(config, entry, name).build(num_classes, feature_channels=4)
            trained_method(config, entry, name).build(num_classes, feature_channels=4)
        if config["tuning"]["method"] is not None:
            tuned = method(config, config["tuning"]["method"], name)
            for options in tuning_grid(config):
                tuned.with_options(options).build(num_classes, feature_channels=4)


# What the names mean


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
            raise UserError(_unknown(place, module, "module of common/datasets/", datasets.names()))
        raise UserError(_unknown("datasets", name, "dataset", dataset_names(config)))
    kind = datasets.load(module)
    place = f"dataset_options.{name}"
    try:
        built = kind(**dataset_options(config, name))
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {error}") from error
    built.entry = name
    return built


def dataset_options(config: Config, name: str) -> dict[str, Any]:
    """All options of a dataset, defaults included."""
    given = {k: v for k, v in config["dataset_options"].get(name, {}).items() if k != "module"}
    kind = datasets.load(dataset_module(config, name))
    return _options(f"dataset_options.{name}", given, _parameters(kind))


def settings(config: Config, section: str, dataset: str, model: str) -> dict[str, Any]:
    """The settings of `training` or `evaluation` for one dataset and model, overrides applied."""
    merged = dict(config[section])
    per_dataset, per_model = merged.pop("per_dataset"), merged.pop("per_model")
    return merged | per_dataset.get(dataset, {}) | per_model.get(model, {})


def method_names(config: Config) -> list[str]:
    """All names that `methods` may list: the entries of `method_options` and the modules."""
    return sorted({*config["method_options"], *methods.names()})


def method(config: Config, name: str, dataset: str) -> MethodEntry:
    """What a method name means on a dataset.

    Raises:
        UserError: There is no such method, it cannot be loaded, or an option is wrong.
    """
    given = dict(config["method_options"].get(name, {}))
    overrides = given.pop("per_dataset", {})
    if "predictions" in given:
        return _predictions_entry(name, given | overrides.get(dataset, {}))
    module = given.pop("module", name)
    if module not in methods.names():
        if name in config["method_options"]:
            place = f"method_options.{name}"
            raise UserError(_unknown(place, module, "module of methods/", methods.names()))
        raise UserError(_unknown("methods", name, "method", method_names(config)))
    try:
        kind = methods.load(module)
    except Exception as error:  # a user's own file may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"methods/{module}.py cannot be loaded: {reason}") from error
    trained_as = given.pop("trained_as", kind.trained_as)
    given |= overrides.get(dataset, {})
    options = _options(f"method_options.{name}", given, _parameters(kind, skip=2))
    return MethodEntry(name, module, options, trained_as)


def _predictions_entry(name: str, given: Mapping[str, Any]) -> MethodEntry:
    place = f"method_options.{name}"
    others = sorted({*given} - {"predictions"})
    if others:
        raise UserError(f"{place}: predictions are scored as they are; remove {', '.join(others)}")
    folder = given["predictions"]
    try:
        predictions.check(folder)
    except ValueError as error:
        raise UserError(f"{place}.{error}") from None
    return MethodEntry(name, "", {}, None, folder)


def trained_method(config: Config, name: str, dataset: str) -> MethodEntry:
    """The method entry that is trained for `name`: itself, or the one it is `trained_as`."""
    entry = method(config, name, dataset)
    return method(config, entry.trained_as, dataset) if entry.trained_as else entry


def tuning_split(config: Config, dataset_name: str, model: str) -> str:
    """The split that options are tried on.

    Raises:
        UserError: The dataset has none of that name, or the tables score it.
    """
    place, split = f"tuning.split (for {dataset_name})", config["tuning"]["split"]
    found = dataset(config, dataset_name)
    scored = found.parts(settings(config, "evaluation", dataset_name, model)["split"])
    if {*_parts(place, found, split)} & {*scored}:
        raise UserError(f"{place}: {split} is what the tables score: choose another")
    return split


def check_tuning_splits(config: Config) -> None:
    """Checks what only a search needs.

    Raises:
        UserError: There is no method to tune, or no split to tune it on.
    """
    if config["tuning"]["method"] is None:
        raise UserError("tuning.method: name the method whose options are to be tried, such as crf-5")
    for pair in itertools.product(config["datasets"], config["models"]):
        tuning_split(config, *pair)


def tuning_grid(config: Config) -> list[dict[str, Any]]:
    """The options of every candidate of `tuning.grid`."""
    grid = dict(sorted(config["tuning"]["grid"].items()))  # a digest knows no order
    choices = [
        [list(x) for x in itertools.product(*values)] if isinstance(values[0], list) else values
        for values in grid.values()
    ]
    return [dict(zip(grid, candidate)) for candidate in itertools.product(*choices)]


# Checking


@cache
def _schema() -> dict[str, Any]:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def _fill_defaults(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterable[ValidationError]:
    if isinstance(instance, dict):
        for name, subschema in properties.items():
            if "default" in subschema:
                instance.setdefault(name, copy.deepcopy(subschema["default"]))
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, instance, schema)


_Filling = validators.extend(Draft202012Validator, {"properties": _fill_defaults})


def _validate(content: Any, schema: dict[str, Any], filling: bool = False, place: Sequence[str] = ()) -> None:
    validator = (_Filling if filling else Draft202012Validator)(schema)
    error = best_match(validator.iter_errors(content))
    if error is not None:
        raise UserError(_sentence(error, place))


def _sentence(error: ValidationError, place: Sequence[str]) -> str:
    where = ".".join(map(str, [*place, *error.absolute_path])) or "the configuration"
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))[0]
        return _unknown(where, unknown, "key", known)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}: {missing} is missing: give it a list of names"
    if error.validator == "enum":
        return f"{where}: {error.instance!r} is none of {', '.join(map(str, error.validator_value))}"
    if error.validator == "type":
        wanted = error.validator_value
        wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
        return f"{where}: {error.instance!r} is not of type {wanted}"
    return f"{where}: {error.message}"


def _unknown(where: str, name: Any, kind: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{where}: unknown {kind} {name!r}{hint}; choose from {', '.join(known)}"


def _options(
    place: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """The given options over the defaults; names and types are checked."""
    for name, value in given.items():
        if name not in parameters:
            if not parameters:
                raise UserError(f"{place}: unknown option {name!r}; there are none to choose")
            raise UserError(_unknown(place, name, "option", parameters))
        annotation = _annotation(parameters[name])
        if not _fits(value, annotation):
            wanted = getattr(annotation, "__name__", str(annotation)).replace("typing.", "")
            if typing.get_origin(annotation):
                wanted = str(annotation).replace("typing.", "").replace("collections.abc.", "")
            raise UserError(f"{place}.{name}: {value!r} is not of type {wanted}")
    merged = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise UserError(f"{place}: the option {name} must be given")
        merged[name] = list(value) if isinstance(value, tuple) else value
    return _plain_numbers(merged, place)  # 2 and 2.0 are one setting and must have one digest


@cache
def _parameters(kind: type, skip: int = 0) -> dict[str, inspect.Parameter]:
    """The named parameters of a class's `__init__` after the first `skip`, types resolved."""
    try:
        signature = inspect.signature(kind, eval_str=True)
    except NameError:  # a type that is imported for type checkers only: take the texts
        signature = inspect.signature(kind)
    parameters = list(signature.parameters.values())[skip:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p for p in parameters if p.kind not in variadic}


def _annotation(parameter: inspect.Parameter) -> Any:
    """The type of an option; anything goes where its module gives none that is known here."""
    annotation = parameter.annotation
    return Any if annotation is inspect.Parameter.empty or isinstance(annotation, str) else annotation


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        items = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(_fits(item, items) for item in value)
    if annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation in (int, str, bool):
        return type(value) is annotation
    return True


def _check_overrides(config: Config, section: str) -> None:
    """Overrides are checked like the settings that they override, but have no defaults."""
    properties = dict(_schema()["$defs"][section]["properties"])
    schema = {
        "$defs": _schema()["$defs"],
        "type": "object",
        "additionalProperties": False,
        "properties": {k: v for k, v in properties.items() if not k.startswith("per_")},
    }
    for kind in ("per_dataset", "per_model"):
        for name, override in config[section][kind].items():
            if kind == "per_dataset":
                _check_dataset_name(config, f"{section}.{kind}", name)
            _validate(override, schema, place=[section, kind, name])
    if section == "training":
        for dataset_name in config["datasets"]:
            for model in config["models"]:
                _check_training(settings(config, section, dataset_name, model), dataset_name)
                check_share(config, dataset_name, model, config["execution"]["gpus_per_run"])


def check_share(config: Config, dataset_name: str, model: str, gpus: int) -> None:
    """Checks that so many GPUs can have equal shares of a batch.

    Raises:
        UserError: They cannot.
    """
    size = settings(config, "training", dataset_name, model)["batch_size"]
    if size % gpus:
        raise UserError(
            f"training.batch_size (for {dataset_name}): {size} images cannot be shared equally by {gpus} "
            "GPUs: choose a multiple of execution.gpus_per_run"
        )


def _check_method_overrides(config: Config) -> None:
    for name, options in config["method_options"].items():
        for dataset_name in options.get("per_dataset", {}):
            _check_dataset_name(config, f"method_options.{name}.per_dataset", dataset_name)


def _check_dataset_name(config: Config, place: str, name: str) -> None:
    if name not in dataset_names(config):
        raise UserError(_unknown(place, name, "dataset", dataset_names(config)))


def _check_training(training: dict[str, Any], name: str) -> None:
    low, high = training["scale"]
    if low > high:
        raise UserError(f"training.scale (for {name}): {low} is greater than {high}: swap them")
    if low != high and not training["crop"]:
        raise UserError(f"training.crop (for {name}): images of random scale need one: give [height, width]")
    if training["warmup"] >= training["iterations"]:
        raise UserError(
            f"training.warmup (for {name}): {training['warmup']} must be less than the "
            f"{training['iterations']} iterations"
        )


def _check_splits(config: Config, name: str, dataset: datasets.Dataset) -> None:
    for model in config["models"]:
        trained, scored = (
            _parts(f"{section}.split (for {name})", dataset, settings(config, section, name, model)["split"])
            for section in ("training", "evaluation")
        )
        both = sorted({*trained} & {*scored})
        if both:
            raise UserError(
                f"evaluation.split (for {name}): {both[0]} is also trained on: score another split"
            )


def _parts(place: str, dataset: datasets.Dataset, split: str) -> list[str]:
    try:
        return dataset.parts(split)
    except KeyError as error:
        raise UserError(_unknown(place, error.args[0], "split", dataset.split_names())) from None


def _check_tuning(config: Config) -> None:
    name, grid = config["tuning"]["method"], config["tuning"]["grid"]
    if name is None:
        return
    if name not in method_names(config):
        raise UserError(_unknown("tuning.method", name, "method", method_names(config)))
    for option, values in grid.items():
        if len({isinstance(value, list) for value in values}) > 1 or [] in values:
            raise UserError(f"tuning.grid.{option}: give either values, or a list of values for each number")
    for dataset_name in config["datasets"]:
        entry = method(config, name, dataset_name)
        if not entry.trained_as:
            raise UserError(f"tuning.method: {name} refines no other method's output; name one that does")
        parameters = _parameters(methods.load(entry.module), skip=2)
        for options in tuning_grid(config):
            _options("tuning.grid", options, parameters)


def _check_downloads(config: Config) -> None:
    kinds = (datasets.load(dataset_module(config, name)) for name in downloadable(config))
    built = (dataset(config, name) for name in downloadable(config))
    known = sorted({archive.name for kind in [*kinds, *built] for archive in kind.archives})
    for name in config["download"]["files"]:
        if name not in known:
            raise UserError(_unknown("download.files", name, "file", known))


def _check_trained_as(config: Config, entry: MethodEntry, dataset: str) -> None:
    place = f"method_options.{entry.name}.trained_as"
    if entry.trained_as not in method_names(config):
        raise UserError(_unknown(place, entry.trained_as, "method", method_names(config)))
    other = method(config, str(entry.trained_as), dataset)
    if other.predictions:
        raise UserError(f"{place}: {other.name} is read from a folder: name a method that is trained")
    if other.trained_as:
        raise UserError(
            f"{place}: {other.name} trains no model itself: name {other.trained_as}, whose model it uses"
        )
