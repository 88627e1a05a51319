"""What is set in a configuration and changes nothing: it may be meant otherwise, so it is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.config import tuning
from common.config.entries import Config, dataset, entry, method, settings, trained_methods
from common.config.method_entry import KEYS, MethodEntry
from common.config.method_facts import method_facts
from common.config.schema import shown

Layer = Mapping[str, Any]
Settings = Mapping[str, Any]

MOST_SENTENCES = 20
SECTIONS = ("training", "evaluation")

_UNUSED: tuple[tuple[str, Callable[[Settings], bool], str], ...] = (
    ("momentum", lambda training: training["optimizer"] != "sgd", "the optimizer is not sgd"),
    ("power", lambda training: training["schedule"] != "poly", "the schedule is not poly"),
    ("step_at", lambda training: training["schedule"] != "step", "the schedule is not step"),
    ("step_factor", lambda training: training["schedule"] != "step", "the schedule is not step"),
    ("warmup_factor", lambda training: not training["warmup"], "warmup is 0"),
    ("decay_all", lambda training: not training["weight_decay"], "weight_decay is 0"),
    ("scale_step", lambda training: len({*training["scale"]}) == 1, "scale is a single number"),
    ("interpolation", lambda training: {*training["scale"]} == {1}, "scale is 1"),
    (
        "padding",
        lambda training: not (training["crop"] or training["rotation"]),
        "nothing is cropped or turned",
    ),
    ("padding_place", lambda training: not training["crop"], "crop is null"),
    ("jitter_first", lambda training: not training["jitter"], "jitter is 0"),
)
"""Settings of training, when they have no effect, and why."""

_UNUSED_OF_MODELS: tuple[tuple[str, Callable[[Settings], bool], str], ...] = (
    (
        "batchnorm_momentum",
        lambda options: options["freeze_batchnorm"] is not False,
        "BatchNorm is frozen there",
    ),
    ("head_batchnorm_momentum", lambda options: options["freeze_batchnorm"] is True, "BatchNorm is frozen"),
    (
        "dilation",
        lambda options: options["output_stride"] == 32,
        "at output stride 32 no stage loses its stride",
    ),
)
"""Options of models, when they have no effect, and why."""


def without_effect(config: Config, layers: Sequence[Layer]) -> list[str]:
    """Sentences about settings that change nothing.

    Args:
        config: The complete configuration.
        layers: What it was made of, later ones laid over earlier ones. The first is `config.yaml`, which may
            describe what is not run.
    """
    effects = _Effects(config, layers)
    sentences = list(dict.fromkeys(effects.sentences()))
    more = len(sentences) - MOST_SENTENCES
    return sentences[:MOST_SENTENCES] + [f"{more} more settings have no effect"] * (more > 0)


class _Effects:
    """A complete configuration beside the layers that it was made of."""

    def __init__(self, config: Config, layers: Sequence[Layer]) -> None:
        self.config, self.layers = config, layers
        self.pairs = list(itertools.product(config["datasets"], config["models"]))

    def sentences(self) -> Iterator[str]:
        """All sentences."""
        for section in SECTIONS:
            yield from self._overridden(section)
        yield from self._overridden_options()
        yield from self._unused_names()
        yield from self._unused_training()
        yield from self._unused_options()
        yield from self._scales()
        yield from self._rest()

    def layer(self, *path: str) -> int:
        """The last layer that sets what is at a path; −1 if none does."""
        return max((place for place, layer in enumerate(self.layers) if _has(layer, path)), default=-1)

    def value(self, *path: str) -> Any:
        """What is set at a path."""
        return _at(self.layers[self.layer(*path)], path)

    def keys(self, *path: str) -> list[str]:
        """All keys that are set in the mapping at a path."""
        mappings = (_at(layer, path) for layer in self.layers if _has(layer, path))
        return list(
            dict.fromkeys(key for mapping in mappings if isinstance(mapping, Mapping) for key in mapping)
        )

    def _overridden(self, section: str) -> Iterator[str]:
        """Settings that others for a dataset or a model go before."""
        for key in self.keys(section):
            if key.startswith("per_"):
                continue
            yield from self._beaten(
                (section, key), [self._winner(section, key, *pair) for pair in self.pairs]
            )
        for name in {*self.keys(section, "per_dataset")} & {*self.config["datasets"]}:
            for key in self.keys(section, "per_dataset", name):
                winners = [(section, "per_model", model, key) for model in self.config["models"]]
                yield from self._beaten((section, "per_dataset", name, key), winners)

    def _winner(self, section: str, key: str, dataset: str, model: str) -> tuple[str, ...]:
        """The path of what goes before a setting of a section, which may be unset."""
        of_model = (section, "per_model", model, key)
        return of_model if self.layer(*of_model) >= 0 else (section, "per_dataset", dataset, key)

    def _overridden_options(self) -> Iterator[str]:
        """Options of entries that others for a dataset go before."""
        for name in self.keys("method_options"):
            for key in self.keys("method_options", name):
                if key == "colour_coded" or key not in KEYS:
                    head = ("method_options", name)
                    winners = [(*head, "per_dataset", dataset, key) for dataset in self.config["datasets"]]
                    yield from self._beaten((*head, key), winners)

    def _beaten(self, path: tuple[str, ...], winners: Sequence[tuple[str, ...]]) -> Iterator[str]:
        """The sentence about a setting that others go before: everywhere, or that were set earlier."""
        layer = self.layer(*path)
        before = [winner for winner in dict.fromkeys(winners) if self.layer(*winner) >= 0]
        everywhere = len(before) == len({*winners})
        if not everywhere:
            before = [winner for winner in before if self.layer(*winner) < layer]
        before = [winner for winner in before if self.value(*winner) != self.value(*path)]
        if before and layer > 0:
            first = before[0]
            where = "" if everywhere else f" on {', '.join(winner[-2] for winner in before)}"
            yield (
                f"{'.'.join(path)}: {shown(self.value(*path))} has no effect{where}: {'.'.join(first)} is "
                f"{shown(self.value(*first))}, which goes before it; set that"
            )

    def _unused_names(self) -> Iterator[str]:
        """Settings for what is not run, unless they were there before the list of what is run."""
        used = {
            "datasets": {*self.config["datasets"]},
            "models": {*self.config["models"]},
            "methods": self._methods(),
        }
        paths: list[tuple[str, tuple[str, ...]]] = [(kind, (f"{kind[:-1]}_options",)) for kind in used]
        for section in SECTIONS:
            paths += [("datasets", (section, "per_dataset")), ("models", (section, "per_model"))]
        for name in self.keys("method_options"):
            paths.append(("datasets", ("method_options", name, "per_dataset")))
        for kind, path in paths:
            for name in self.keys(*path):
                if name not in used[kind] and self.layer(*path, name) >= max(1, self.layer(kind)):
                    place = ".".join([*path, name])
                    yield f"{place} has no effect on any run: {name} is not among the {kind}"

    def _methods(self) -> set[str]:
        """The entries that are run, or trained for those that are."""
        names = {*self.config["methods"]}
        pairs = itertools.product(names, self.config["datasets"])
        own = [pair for pair in pairs if isinstance(entry(self.config, *pair), MethodEntry)]
        members = {meaning.ensemble.of for pair in own if (meaning := method(self.config, *pair)).ensemble}
        trained = {meaning.name for pair in own for meaning in trained_methods(self.config, *pair)}
        return names | members | trained

    def _unused_training(self) -> Iterator[str]:
        """Settings of training that other settings leave no room for."""
        for key, is_unused, reason in _UNUSED:
            places = [
                (path, pair)
                for pair in self.pairs
                for path in (self._winner("training", key, *pair), ("training", key))
                if self.layer(*path) >= 0
            ]
            if places and all(is_unused(settings(self.config, "training", *pair)) for _, pair in places):
                path = places[0][0]
                if self.layer(*path) > 0:
                    yield f"{'.'.join(path)}: {shown(self.value(*path))} has no effect: {reason}"

    def _unused_options(self) -> Iterator[str]:
        """Options of models that other options leave no room for."""
        for model in self.config["models"]:
            for key, is_unused, reason in _UNUSED_OF_MODELS:
                path = ("model_options", model, key)
                if self.layer(*path) <= 0 or self.value(*path) is None:
                    continue
                if is_unused(self.config["model_options"][model]):
                    yield f"{'.'.join(path)}: {shown(self.value(*path))} has no effect: {reason}"

    def _scales(self) -> Iterator[str]:
        """Steps of the random scale that do not end where its range does."""
        for name, model in self.pairs:
            training = settings(self.config, "training", name, model)
            (low, high), step = training["scale"], training["scale_step"]
            if not step or low == high:
                continue
            count = round((high - low) / step)
            if abs(low + count * step - high) > 1e-6 * high:
                drawn = f"{low:g} to {low + count * step:g}" if count else f"{low:g} alone"
                yield (
                    f"training.scale_step (for {name}): steps of {step:g} do not end at {high:g}: drawn "
                    f"is {drawn}; choose one that the range is a multiple of"
                )

    def _rest(self) -> Iterator[str]:
        """What else has no effect."""
        config = self.config
        baseline = config["tables"]["baseline"]
        if baseline not in config["methods"] and (
            len(config["methods"]) > 1 or self.layer("tables", "baseline") > 0
        ):
            yield f"tables.baseline: {baseline} is not among the methods: no differences are shown"
        if not tuning.searched(config):
            for key in self.keys("tuning"):
                if key != "methods" and self.layer("tuning", key) > 0:
                    yield f"tuning.{key} has no effect: tuning.methods has nothing to try of any method"
        for name in tuning.grids(config):
            layer = self.layer("tuning", "methods", name)
            if name not in config["methods"] and layer >= max(1, self.layer("methods")):
                yield f"tuning.methods.{name} has no effect: {name} is not among the methods"
        yield from self._starts()
        yield from self._validation()
        if config["execution"]["gpus_per_run"] > 1 and not config["resources"]["gpu"]:
            yield "execution.gpus_per_run has no effect on jobs of Snakemake: resources.gpu is 0"
        if config["execution"]["runs_per_gpu"] > 1:
            if not config["resources"]["gpu"]:
                yield "execution.runs_per_gpu has no effect on jobs of Snakemake: resources.gpu is 0"
            elif config["execution"]["gpus_per_run"] > 1:
                yield "execution.runs_per_gpu has no effect on training: execution.gpus_per_run is above 1"

    def _starts(self) -> Iterator[str]:
        """What acts inside of a network that others start from, and is no part of what these are."""
        runs = itertools.product(self.config["methods"], self.config["datasets"])
        trained = [
            trained_methods(self.config, *pair)
            for pair in runs
            if isinstance(entry(self.config, *pair), MethodEntry)
        ]
        for own, start in dict.fromkeys(
            (own.name, start.name)
            for chain in trained
            for own, start in itertools.pairwise(chain)
            if own.module != start.module and method_facts(start.module).acts_inside
        ):
            yield (
                f"method_options.{own}.start: what {start} does inside the network has no effect on {own}, "
                f"which starts with the network of {start} alone"
            )

    def _validation(self) -> Iterator[str]:
        """Validation while training that there is nothing for."""
        if not self.config["execution"]["validate_every"]:
            if self.config["execution"]["validate_images"] is not None:
                yield "execution.validate_images has no effect: execution.validate_every is 0"
            return
        for name, model in self.pairs:
            trained = settings(self.config, "training", name, model)["split"]
            reason = dataset(self.config, name).not_validated(trained)
            if reason:
                yield f"execution.validate_every has no effect on {name}: {reason}"


def _has(layer: Layer, path: Sequence[str]) -> bool:
    """Whether a layer sets what is at a path."""
    for key in path:
        if not isinstance(layer, Mapping) or key not in layer:
            return False
        layer = layer[key]
    return True


def _at(layer: Layer, path: Sequence[str]) -> Any:
    """What a layer sets at a path."""
    for key in path:
        layer = layer[key]
    return layer
