"""The check that models and methods can be built with their options, for which they have to be imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from common.config import tuning
from common.config.entries import Config, dataset, entry, method, trained_methods
from common.config.memory import recall, remember
from common.config.method_entry import MethodEntry
from common.config.method_facts import facts_digest
from common.files import digest
from common.provenance import packages

NETWORKS = Path(__file__).resolve().parents[1] / "networks"
SECTIONS = ("datasets", "dataset_options", "models", "model_options", "methods", "method_options", "tuning")
"""What this check looks at, besides the models that settings are overridden for."""


def check_values_once(config: Config) -> None:
    """Checks that models and methods can be built, unless that was done with the same configuration and code.

    Raises:
        UserError: Something is wrong; the sentence names the entry.
    """
    name = f"checked/{_digest(config)}"
    if not recall(name, bool):
        check_values(config)
        remember(name, True)


def check_values_apart(config: Config) -> None:
    """As `check_values_once`, in a process of its own, with which the memory goes that imports have taken.

    That is more than the plan of thousands of runs needs.

    Raises:
        UserError: Something is wrong; the sentence names the entry.
    """
    with ProcessPoolExecutor(1, get_context("fork")) as process:
        try:
            process.submit(check_values_once, config).result()
        except BrokenProcessPool:  # it was killed, or died of what it imported: whoever asks is to see why
            check_values_once(config)


def check_values(config: Config) -> None:
    """Checks that models and methods can be built.

    Raises:
        UserError: Something is wrong; the sentence names the entry.
    """
    from common.networks import network  # imports all architectures, which takes seconds

    for model in sorted({*config["models"], *config["model_options"], *_overridden_models(config)}):
        network.check_name(model)
    for name in config["datasets"]:
        num_classes = len(dataset(config, name).class_names)
        for meaning in _method_entries(config, name):
            meaning.build(num_classes, feature_channels=4)


def _overridden_models(config: Config) -> list[str]:
    """The models that settings are overridden for."""
    return sorted({*config["training"]["per_model"], *config["evaluation"]["per_model"]})


def _method_entries(config: Config, dataset_name: str) -> Iterator[MethodEntry]:
    """All method entries that are run on a dataset, that are trained for others, and that a search tries."""
    for name in config["methods"]:
        meaning = entry(config, name, dataset_name)
        if isinstance(meaning, MethodEntry):
            yield meaning
            yield from trained_methods(config, name, dataset_name)
    for name in tuning.searched(config):
        searched, model = method(config, name, dataset_name), config["models"][0]
        for candidate in tuning.candidates(config, name, dataset_name, model).sample:
            yield searched.with_options(candidate.options)


def _digest(config: Config) -> str:
    """What the outcome of the check depends on: configuration, code, and versions of packages."""
    names = config["datasets"]
    modules = sorted({meaning.module for name in names for meaning in _method_entries(config, name)})
    content = {
        "configuration": {section: config[section] for section in SECTIONS},
        "overridden": _overridden_models(config),
        "classes": [len(dataset(config, name).class_names) for name in names],
        "methods": {module: facts_digest(module) for module in modules},
        "networks": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(NETWORKS.glob("*.py"))],
        "packages": packages(),
    }
    return digest(content, length=20)
