"""Why a method is not run on a dataset with a model: the configuration or its class says so, or images lack.

What a class says is remembered, so that planning need not import it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import methods
from common import compiler
from common.config import entries
from common.config.entries import Config
from common.config.memory import recall, remember
from common.config.method_class import check_class
from common.config.method_entry import MethodEntry, PredictionsEntry
from common.config.method_facts import cannot_be_loaded, facts_digest, method_facts
from common.files import digest


@dataclass(frozen=True)
class Answer:
    """What a class says of one setting: a reason not to run there, or none."""

    reason: str | None


def skip_reason(config: Config, name: str, dataset: str, model: str) -> str | None:
    """Why a method is not run on a dataset with a model; None if it is.

    One that needs another entry's model is not run where that is not.

    Args:
        config: The configuration.
        name: Name of the method entry.
        dataset: Name of the dataset.
        model: Name of the model.

    Raises:
        UserError: The class of a method cannot say it.
    """
    own = entries.entry(config, name, dataset)
    if isinstance(own, PredictionsEntry):
        return None
    for entry in (own, *entries.trained_methods(config, name, dataset)):
        reason = (
            entry.skip.get(dataset)
            or entry.skip.get(model)
            or _of_images(config, entry, dataset, model)
            or _of_class(config, entry, dataset, model)
        )
        if reason:
            return reason if entry.name == name else f"it needs the model of {entry.name}: {reason}"
    return None


def _of_images(config: Config, entry: MethodEntry, dataset: str, model: str) -> str | None:
    """Why an entry that is fitted on a split of its own cannot be: nothing else may see its images."""
    split = entry.training.get("split")
    if split is None or entry.start is None:
        return None
    data = entries.dataset(config, dataset)
    try:
        own = {*data.parts(split)}
    except KeyError as error:
        return f"there is no split {error.args[0]} to fit it on"
    if own & {*data.unlabelled}:
        return f"the labels of {split}, which it is to be fitted on, are not public"
    if own & _parts(config, "evaluation", dataset, model):
        return f"{split}, which it is to be fitted on, is what the tables score"
    for start in entries.trained_methods(config, entry.start, dataset):
        if own & _parts(config, "training", dataset, model, start):
            return f"{split}, which it is to be fitted on, is what {start.name} is trained on"
    return None


def _parts(
    config: Config, section: str, dataset: str, model: str, entry: MethodEntry | None = None
) -> set[str]:
    """The splits of a dataset that are trained on or scored."""
    split = entries.settings(config, section, dataset, model, entry)["split"]
    return {*entries.dataset(config, dataset).parts(split)}


def _of_class(config: Config, entry: MethodEntry, dataset: str, model: str) -> str | None:
    """What the class of an entry says."""
    if not method_facts(entry.module).skips:
        return None
    setting = {
        "dataset": dataset,
        "num_classes": len(entries.dataset(config, dataset).class_names),
        "model": model,
        "output_stride": entries.model_options(config, model, entry)["output_stride"],
        "options": entry.options,
    }
    code, text = facts_digest(entry.module), json.dumps(setting, sort_keys=True)
    return _remembered(entry.module, code, text).reason


@cache
def _remembered(module: str, code: str, setting: str) -> Answer:
    """What the class of some code says of a setting, which is JSON; it is asked if that is not remembered."""
    name = f"methods/{module}-{code}-{digest(setting)}"
    answer = recall(name, Answer)
    if answer is None:
        answer = Answer(_asked(module, json.loads(setting)))
        remember(name, answer)
    return answer


def _asked(module: str, setting: dict[str, Any]) -> str | None:
    """What a class says of a setting.

    Raises:
        UserError: It cannot be loaded, or says nothing that is meant.
    """
    from common.networks.hooks import reason_to_skip  # imports PyTorch
    from methods.base import Setting

    try:
        with compiler.put_off():
            kind = methods.load(module)
        check_class(kind)
    except (Exception, SystemExit) as error:  # a user's own file may fail in any way
        raise cannot_be_loaded(module, error) from error
    return reason_to_skip(kind, Setting(**setting))
