"""Which images the page shows: where methods differ most, the worst, and usual ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.config.settings import TableSettings
from common.datasets.base import Dataset
from common.datasets.manifest import Manifest
from common.errors import Damaged, UserError
from common.report.contents import ModelPart
from common.report.examples import Example, draw_example
from common.report.method_labels import MethodLabels
from common.runs.jobs import Preparation
from common.tables.results import Row, recorded


@dataclass(frozen=True)
class Choice:
    """The images of one dataset and model that are to be shown.

    Attributes:
        methods: What every method predicted.
        dataset: Where the images are from.
        names: Their names with the reason of their choice, most telling first.
        manifest: What the images were when the dataset was prepared; None if nothing says so.
    """

    methods: Sequence[MethodLabels]
    dataset: Dataset
    names: Sequence[tuple[str, str]]
    manifest: Manifest | None = None


def fill_galleries(parts: Sequence[ModelPart], rows: Sequence[Row], settings: TableSettings) -> int:
    """Gives every part its examples, and returns how many did not fit.

    Args:
        parts: What the page says about every dataset and model.
        rows: Of all of them.
        settings: How many examples of each kind there are, and how large all may be together.
    """
    choices = {}
    for part in parts:
        own = [row for row in rows if row.group.key == (part.dataset, part.model)]
        methods, missing = _labels(own)
        part.seeds = {labels.method: labels.run.seed for labels in methods if labels.run}
        if missing:
            part.gallery_note = f"Not shown: {'; '.join(missing)}."
        names = choose(methods, settings.gallery)
        data = own[0].group.data
        choices[part.id] = Choice(methods, data.dataset, names, _manifest(data))
    taken, left_out = fill(choices, int(1e6 * settings.report_mb))
    for part in parts:
        part.examples = taken[part.id]
    return left_out


def _manifest(data: Preparation) -> Manifest | None:
    """The manifest of a dataset, if there is one that can be read."""
    try:
        return data.manifest()
    except UserError:
        return None


def _labels(rows: Sequence[Row]) -> tuple[list[MethodLabels], list[str]]:
    """What the methods of a dataset and model predicted, and why it is not known of some."""
    methods, missing = [], []
    for row in rows:
        results = [result for result in row.results if result.metrics]
        if not results:
            continue
        try:
            labels = MethodLabels.of(row.method, results)
        except Damaged as error:
            error_file = error.path.with_name(results[0].run.error.name)
            missing.append(f"{row.method}: {recorded(error, error_file, 'evaluate')}")
            continue
        except UserError as error:
            missing.append(f"{row.method}: {error}")
            continue
        if labels.names:
            methods.append(labels)
        else:
            missing.append(f"{row.method}: its runs kept no labels")
    return methods, missing


def choose(methods: Sequence[MethodLabels], count: int) -> list[tuple[str, str]]:
    """Names of images with the reason of their choice, most telling first.

    As many of each kind as `count` says: where the methods' scores (mean over seeds) lie furthest apart,
    where even the mean over methods is lowest, and where it is nearest to its median.
    """
    names = sorted(set.intersection(*(labels.names for labels in methods))) if methods else []
    if not names or not count:
        return []
    scores = np.array([[labels.scores[name] for name in names] for labels in methods])
    mean = scores.mean(axis=0)
    kinds = {"worst of all methods": mean, "usual": abs(mean - np.median(mean))}
    if len(methods) > 1:
        kinds = {"methods differ most": scores.min(axis=0) - scores.max(axis=0)} | kinds
    order = {reason: iter(np.argsort(key, kind="stable")) for reason, key in kinds.items()}
    chosen: dict[str, str] = {}
    for _ in range(min(count * len(kinds), len(names))):
        reason = list(kinds)[len(chosen) % len(kinds)]
        place = next(i for i in order[reason] if names[i] not in chosen)
        chosen[names[place]] = reason
    return list(chosen.items())


def fill(choices: Mapping[str, Choice], limit: int) -> tuple[dict[str, list[Example]], int]:
    """Examples of several models, taken in turns as long as they fit, and then put in order by kind.

    Args:
        choices: Per part of the page what is to be shown.
        limit: Bytes at most of all pictures together.

    Returns:
        The examples per part, and how many did not fit or could not be read.
    """
    taken: dict[str, list[Example]] = {key: [] for key in choices}
    left, left_out = limit, 0
    for turn in range(max((len(choice.names) for choice in choices.values()), default=0)):
        for key, choice in choices.items():
            if turn >= len(choice.names):
                continue
            try:
                example = draw_example(choice.methods, choice.dataset, *choice.names[turn], choice.manifest)
            except UserError:  # a damaged file costs the pictures that need it
                left_out += 1
                continue
            if example.bytes <= left:
                taken[key].append(example)
                left -= example.bytes
            else:
                left_out += 1
    for examples in taken.values():
        examples[:] = _by_kind(examples)
    return taken, left_out


def _by_kind(examples: Sequence[Example]) -> list[Example]:
    """Examples with those of one reason together, reasons in the order in which they came."""
    reasons = list(dict.fromkeys(example.reason for example in examples))
    return sorted(examples, key=lambda example: reasons.index(example.reason))
