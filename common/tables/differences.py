"""What a result that is not of the configuration has otherwise than the run that is most like it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.config.method_code import code_digest
from common.config.settings import plain
from common.datasets.manifest import content_of
from common.runs import recipes
from common.runs.benchmark import Benchmark
from common.runs.jobs import Run, TrainedRun
from common.runs.records import Metrics, TrainedModelFacts

NAMED = 6
"""How many differences of one result are named."""


def differences(metrics: Metrics, benchmark: Benchmark) -> list[str]:
    """What a result has otherwise than the run of the configuration that is most like it.

    Args:
        metrics: The scores, which are not of the configuration.
        benchmark: The configuration.
    """
    alike = [run for run in benchmark.runs if run.dataset == metrics.dataset]
    if not alike:
        return [f"dataset {metrics.dataset} is not in the configuration"]
    parts = []
    for kind, name in (("model", metrics.model), ("method", metrics.method), ("seed", metrics.seed)):
        same = [run for run in alike if getattr(run, kind) == name]
        if not same:
            parts.append(f"{kind} {name} is not in the configuration")
        if not same and kind == "model":
            return parts
        alike = same or alike
    run = next(
        (run for run in alike if isinstance(run, TrainedRun) == (metrics.trained is not None)), alike[0]
    )
    parts += _differences(metrics, run)
    if len(parts) > NAMED:
        parts = [*parts[:NAMED], f"and {len(parts) - NAMED} more"]
    return parts or ["something that its record does not tell of"]


def _differences(metrics: Metrics, run: Run) -> Iterator[str]:
    """What a result has otherwise than one run."""
    if metrics.recipe != recipes.SCORING.number:
        yield f"scoring by recipe {metrics.recipe}, not {recipes.SCORING.number}"
    if content_of(run.data.path) not in (None, metrics.content_sha256):
        yield "other images or labels"
    yield from _settings("evaluation", metrics.evaluation, run.evaluation)
    if not isinstance(run, TrainedRun) or metrics.trained is None:
        if isinstance(run, TrainedRun) or metrics.trained:
            yield f"{'a trained model' if metrics.trained else 'predictions read from a folder'}"
        elif metrics.method == run.method:
            yield "other predictions"
        return
    yield from _settings("model_options", metrics.model_options or {}, run.training.model_options)
    yield from _of_training(metrics.trained, run)
    if metrics.method != run.method:
        return
    if metrics.trained_as != run.training.method:
        yield f"trained as {metrics.trained_as}, not as {run.training.method}"
    elif metrics.method != metrics.trained_as:
        training = run.training.entry
        yield from _method(
            training.name,
            training.module,
            training.options,
            metrics.trained.method_code,
            metrics.trained.method_options,
        )
    if metrics.method_module != run.entry.module:
        yield f"module {metrics.method_module}, not {run.entry.module}"
        return
    yield from _method(
        run.method, run.entry.module, run.entry.options, metrics.method_code, metrics.method_options
    )


def _of_training(facts: TrainedModelFacts, run: TrainedRun) -> Iterator[str]:
    """What a model was trained with otherwise than that of a run."""
    if facts.recipe != recipes.TRAINING.number:
        yield f"training by recipe {facts.recipe}, not {recipes.TRAINING.number}"
    if run.training.weights_sha256 not in (None, facts.weights_sha256):
        yield "another file of first weights"
    if facts.training:
        yield from _settings("training", facts.training, run.training.settings)
    if (facts.start is None) != (run.training.start is None):
        yield "started from a trained model" if facts.start else "not started from a trained model"


def _method(
    name: str, module: str, options: Mapping[str, Any], code: str | None, before: Mapping[str, Any] | None
) -> Iterator[str]:
    """What a method had otherwise.

    Args:
        name: Of its entry.
        module: Of `methods/`.
        options: As they are now.
        code: The digest of its code then, if it is known.
        before: Its options then, if they are known.
    """
    if before is not None:
        yield from _settings(f"options of {name}", before, options)
    if code is not None and code != code_digest(module):
        yield f"the code of methods/{module}.py"


def _settings(section: str, before: Any, now: Any) -> Iterator[str]:
    """Which settings differ, with both values."""
    old, new = (_plain(settings) for settings in (before, now))
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            yield f"{section}: {key} {json.dumps(old.get(key))}, not {json.dumps(new.get(key))}"


def _plain(settings: Any) -> dict[str, Any]:
    """Settings as JSON has them."""
    return dict(json.loads(json.dumps(plain(settings))))
