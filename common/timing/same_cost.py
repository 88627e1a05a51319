"""Settings with which other entries cost as much as one of them does, from what both take in turns.

Planning knows numbers only: what is measured here goes into a configuration file, to be laid over.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from common.config.settings import Execution
from common.datasets.split import Split
from common.errors import UserError
from common.prediction.predictor import Pipeline, View
from common.runs.jobs import TrainedRun, Training
from common.timing.clock import LEAST_SECONDS, WARM_UP, enough, timed
from common.timing.estimates import untrained
from common.timing.inference import INFERENCES, example_images
from common.timing.training import TRAINING_STEPS, training_stepper

Cost = Literal["training", "latency"]

VIEWS: tuple[tuple[tuple[float, ...], bool], ...] = (
    ((1.0,), True),
    ((0.75, 1.0, 1.25), False),
    ((0.75, 1.0, 1.25), True),
    ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), False),
    ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True),
)
"""Scales, and whether mirrored images are seen, too, from cheap to dear: what more latency can buy."""


@dataclass(frozen=True)
class Equal:
    """What an entry is to be given to cost as much as another.

    Attributes:
        method: Name of the entry.
        section: Of its settings.
        settings: What is to be set there; nothing if nothing fits.
        reason: The times that say so, or why nothing fits.
    """

    method: str
    section: Literal["training", "evaluation"]
    settings: dict[str, Any]
    reason: str


def equal_training(
    reference: TrainedRun, others: Iterable[TrainedRun], execution: Execution, device: torch.device
) -> list[Equal]:
    """Iterations with which others train for as long as one run does.

    That is the time of steps: of all trainings that a run comes from, without loading and saving. Of entries
    that use a model of others nothing is to be set, nor of one that the run itself comes from, nor of one
    that starts from another that is given all of the time.

    Args:
        reference: The run.
        others: Others on the same dataset and model, one per entry.
        execution: How things are run.
        device: Where steps are timed.

    Raises:
        UserError: Data are missing, or a method cannot work with them.
    """
    sources = {training.method for training in reference.trainings}
    trained = [
        other
        for other in others
        if other.method not in sources and other.method == other.training.method and not other.entry.ensemble
    ]
    equals = [_iterations(reference, other, execution, device) for other in trained]
    changed = {
        equal.method
        for equal, other in zip(equals, trained)
        if equal.settings and equal.settings["iterations"] != other.training.settings.iterations
    }
    return [_beside(equal, other, changed) for equal, other in zip(equals, trained)]


def _beside(equal: Equal, other: TrainedRun, changed: Collection[str]) -> Equal:
    """The settings of an entry, or none if it starts from one of those that are `changed`."""
    starts = [training.method for training in other.trainings[:-1] if training.method in changed]
    if not equal.settings or not starts:
        return equal
    first = starts[0]
    reason = (
        f"it starts from {first}, which has all of that time here; without the lines of {first}, it would be "
        f"{json.dumps(equal.settings)}, {equal.reason}"
    )
    return replace(equal, settings={}, reason=reason)


def _iterations(
    reference: TrainedRun, other: TrainedRun, execution: Execution, device: torch.device
) -> Equal:
    """The iterations of one entry."""
    trainings = {training.method: training for training in (*reference.trainings, *other.trainings)}
    steps = _steps(trainings, execution, device)
    aim, *before = (
        sum(training.settings.iterations * steps[training.method] for training in some)
        for some in (reference.trainings, other.trainings[:-1])
    )
    own = other.training
    count = round((aim - sum(before)) / steps[own.method])
    times = ", ".join(f"{name} {milliseconds:.2f} ms a step" for name, milliseconds in steps.items())
    if count <= max(0, own.settings.warmup):
        reason = f"{reference.method} takes {aim / 1000:.0f} s, too few for its own training ({times})"
        return Equal(other.method, "training", {}, reason)
    return Equal(other.method, "training", {"iterations": count}, f"as long as {reference.method}: {times}")


def _steps(trainings: Mapping[str, Training], execution: Execution, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step of several trainings, by their names, medians of steps taken in turns."""
    takes = {name: training_stepper(training, execution, device).step for name, training in trainings.items()}
    return _in_turns(takes, TRAINING_STEPS)


def equal_latency(reference: TrainedRun, others: Iterable[TrainedRun], device: torch.device) -> list[Equal]:
    """The most of `VIEWS` with which others take no longer for an image than one run does.

    Args:
        reference: The run.
        others: Others on the same dataset and model, one per entry.
        device: Where images are timed.

    Raises:
        UserError: Data are missing, or a method cannot work with them.
    """
    data = reference.data
    split = Split(data.dataset, data.manifest(), reference.evaluation.split)
    images = example_images(split, device)
    return [_views(reference, other, images, device) for other in others if other.method != reference.method]


def _views(
    reference: TrainedRun, other: TrainedRun, images: Sequence[torch.Tensor], device: torch.device
) -> Equal:
    """The views of one entry."""
    pipelines = {reference.method: untrained(reference, device), other.method: untrained(other, device)}
    takes = {name: _taker(pipeline, images, device) for name, pipeline in pipelines.items()}
    single = _in_turns(takes, INFERENCES)
    settings: dict[str, Any] = {}
    latencies = single
    for scales, flip in VIEWS:
        flips = (True, False) if flip else (False,)
        pipelines[other.method].views = tuple(View(scale, mirrored) for scale in scales for mirrored in flips)
        several = _in_turns(takes, INFERENCES)
        if several[other.method] > several[reference.method]:
            break
        settings, latencies = {"scales": [*scales], "flip": flip}, several
    times = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in latencies.items())
    reason = "as long as" if settings else "as it is, no more views fit into that of"
    return Equal(other.method, "evaluation", settings, f"{reason} {reference.method}: {times} an image")


def _taker(pipeline: Pipeline, images: Sequence[torch.Tensor], device: torch.device) -> Callable[[], float]:
    """A function that takes an image after the other, and says how many milliseconds one took."""
    places = iter(range(10**9))

    @torch.inference_mode()
    def take() -> float:
        image = images[next(places) % len(images)]
        return 1000 * timed(lambda: pipeline(image), device)[1]

    return take


def _in_turns(takes: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The medians of several measurements, of which one is taken of each after the other."""
    for _ in range(WARM_UP):
        for take in takes.values():
            take()
    values: dict[str, list[float]] = {name: [] for name in takes}
    count, start = 0, time.monotonic()
    while not enough(count, repeats, start, LEAST_SECONDS):
        for name, take in takes.items():
            values[name].append(take())
        count += 1
    return {name: statistics.median(each) for name, each in values.items()}


def configuration(about: str, equals: Mapping[str, Sequence[Equal]]) -> str:
    """A configuration in YAML that sets what makes costs equal, with the times that say so.

    Args:
        about: Its heading.
        equals: What was measured on every dataset.
    """
    lines = [f"# {about}"]
    methods: dict[str, dict[str, Equal]] = {}
    for dataset, entries in equals.items():
        for equal in entries:
            if equal.settings:
                methods.setdefault(equal.method, {})[dataset] = equal
            else:
                lines.append(f"# {equal.method} on {dataset}: {equal.reason}")
    lines += ["method_options:"] if methods else ["{}"]
    for method, datasets in methods.items():
        lines += [f"  {json.dumps(method)}:", "    per_dataset:"]
        for dataset, equal in datasets.items():
            settings = json.dumps(equal.settings)
            lines.append(f"      {json.dumps(dataset)}: {{{equal.section}: {settings}}} # {equal.reason}")
    return "\n".join(lines) + "\n"


def check_reference(reference: str, methods: Iterable[str]) -> None:
    """Refuses an entry that is not run.

    Raises:
        UserError: It is not.
    """
    if reference not in methods:
        raise UserError(
            f"--same-cost-as: {reference!r} is not among the methods of this benchmark; choose from "
            f"{', '.join(methods)}"
        )
