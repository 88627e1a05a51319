"""What a reader must know before comparing rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.datasets.judgement import absent, classes
from common.errors import UserError
from common.runs import recipes
from common.runs.records import Cost
from common.scoring.stored_scores import edited_sentence
from common.tables.doubts import TOLERANCE, doubts
from common.tables.origins import origin_notes
from common.tables.results import ControlRow, Result, Row


def notes(rows: Sequence[Row], controls: Sequence[ControlRow], compared: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing rows.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
        compared: The comparisons with the baseline.
    """
    measured = [cost for row in rows for cost in row.costs]
    return [
        *origin_notes(rows, controls),
        *_edited(rows, controls),
        *_models(rows),
        *_data(rows, controls),
        *_classes(rows),
        *_weights(rows),
        *_decided(rows),
        *_fitted(rows),
        *_tuned(rows),
        *_outdated(rows),
        *_batches(rows),
        *_devices(measured),
        *_doubts(rows),
        *resampling(compared),
        *_uncompared(compared),
    ]


def _edited(rows: Sequence[Row], controls: Sequence[ControlRow]) -> list[str]:
    """Which records say something else than the counts that they were made from."""
    results = [result for row in rows for result in row.results] + [control.result for control in controls]
    edited: list[tuple[Path, Sequence[str]]] = []
    for result in results:
        job = result.run if isinstance(result, Result) else result.control
        if result.edited:
            edited.append((job.metrics, result.edited))
    return [f"WARNING: {edited_sentence(path, names)}." for path, names in edited]


def _models(rows: Sequence[Row]) -> list[str]:
    """Where rows of one training were made with different models, as one was trained again in between."""
    states: dict[tuple[str, str, str, int], dict[str, list[str]]] = {}
    for row in rows:
        for result in row.results:
            facts = result.metrics.trained if result.metrics else None
            if facts and row.trained_as:
                models = states.setdefault((*row.trained_as, result.run.seed), {})
                models.setdefault(facts.state_sha256, []).append(row.method)
    return [
        f"WARNING: rows of the models of {method} ({dataset}, {model}), seed {seed}, were made with "
        f"different ones, trained alike: {' and '.join(', '.join(names) for names in models.values())}."
        for (dataset, model, method, seed), models in states.items()
        if len(models) > 1
    ]


def _data(rows: Sequence[Row], controls: Sequence[ControlRow]) -> list[str]:
    """Which datasets had other files in one row than in another."""
    contents: dict[str, set[str]] = {}
    for row in rows:
        digests = contents.setdefault(row.dataset, set())
        digests |= {metrics.content_sha256 for metrics in row.scores}
        digests |= {metrics.trained.content_sha256 for metrics in row.scores if metrics.trained}
    for control in controls:
        contents.setdefault(control.dataset, set()).update(control.values("content_sha256"))
    return [
        f"WARNING: rows of {dataset} saw different files of the dataset."
        for dataset, digests in contents.items()
        if len(digests) > 1
    ]


def _classes(rows: Sequence[Row]) -> list[str]:
    """What was noticed when the datasets were prepared, and which classes have no pixel in a split."""
    notes: dict[str, None] = {}
    for group in {row.group.key: row.group for row in rows}.values():
        try:
            manifest = group.data.manifest()
        except UserError:  # it is missing or damaged: the rows that need it say so
            continue
        notes |= dict.fromkeys(f"{group.dataset}: {note}." for note in manifest.notes)
        for use, split in (("trained on", group.training.split), ("scored", group.evaluation.split)):
            splits = [
                manifest.splits[part] for part in group.data.dataset.parts(split) if part in manifest.splits
            ]
            without = absent(manifest.class_names, [part.pixels for part in splits])
            if without:
                notes[f"{group.dataset}: {classes(without)} no pixel in {split}, which is {use}."] = None
    return list(notes)


def _weights(rows: Sequence[Row]) -> list[str]:
    """Which models started from other weights in one row than in another."""
    weights: dict[str, set[str | None]] = {}
    for row in rows:
        trained = [metrics.trained for metrics in row.scores if metrics.trained]
        weights.setdefault(row.model, set()).update(facts.weights_sha256 for facts in trained)
    return [
        f"WARNING: rows of {model} started from different files of weights."
        for model, digests in weights.items()
        if len(digests) > 1
    ]


def _fitted(rows: Sequence[Row]) -> list[str]:
    """Which rows are fitted on other images than those that all are trained on."""
    own = {
        row.method: row.entry.training["split"] for row in rows if row.entry and "split" in row.entry.training
    }
    return [
        f"{method} is fitted on {split}, after a network that stays as it is and was trained on other images."
        for method, split in own.items()
    ]


def _decided(rows: Sequence[Row]) -> list[str]:
    """Which rows have calibration that is not of what their labels come from."""
    names = dict.fromkeys(row.method for row in rows if any(row.values("decides")))
    return [
        f"Labels of {', '.join(names)} are decided by a rule: ECE and NLL are those of the probabilities "
        "that it was given, not of its labels."
    ] * bool(names)


def _tuned(rows: Sequence[Row]) -> list[str]:
    """Where some rows were tuned for more than others, the untuned ones among them."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        if row.entry and row.kind == "method" and not row.skipped:
            groups.setdefault(row.group.key, {}).setdefault(row.tuned, []).append(row.method)
    return [
        f"WARNING: rows of {model} on {dataset} were tuned for different budgets: "
        + "; ".join(f"{', '.join(names)} ({budget or 'not tuned'})" for budget, names in budgets.items())
        + "."
        for (dataset, model), budgets in groups.items()
        if len(budgets) > 1
    ]


def _outdated(rows: Sequence[Row]) -> list[str]:
    """Which rows show costs of an older recipe, and what has changed since."""
    names: dict[int, list[str]] = {}
    for row in rows:
        for recipe in {cost.recipe for cost in row.costs if cost.outdated}:
            names.setdefault(recipe, []).append(f"{row.method} ({row.dataset}, {row.model})")
    return [
        f"WARNING: measured by recipe {recipe}, not by that of today, whose times do not compare with them: "
        f"{', '.join(members)}. Run again to measure them anew. New: {recipes.MEASURING.since(recipe)}."
        for recipe, members in sorted(names.items())
    ]


def _batches(rows: Sequence[Row]) -> list[str]:
    """Where training steps do not compare."""
    batches: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        batches.setdefault(row.group.key, set()).update(cost.training_batch for cost in row.costs)
    return [
        f"WARNING: training steps of {model} on {dataset} were measured with batches of different sizes "
        "(execution.gpus_per_run): delete their cost files and run again to compare them."
        for (dataset, model), sizes in batches.items()
        if len(sizes) > 1
    ]


def _devices(measured: Sequence[Cost]) -> list[str]:
    """What times were measured on."""
    devices = sorted({cost.device for cost in measured})
    if len(devices) > 1:
        return [
            f"WARNING: times come from different devices: {'; '.join(devices)}. A table shows those of one "
            "device, and a dash for what was measured elsewhere; all are in cost.csv."
        ]
    return [f"Times measured on: {devices[0]}."] if devices else []


def _doubts(rows: Sequence[Row]) -> list[str]:
    """Which times are not to be relied on."""
    sentences = [f"WARNING: {doubt.sentence}." for doubt in doubts(rows) if doubt.sentence]
    if sentences:
        sentences.append(
            "Times with ~ are not to be relied on: the machine was busy, or equal times differ by more than "
            f"{100 * TOLERANCE:.0f} %. They get no Pareto mark. Delete their cost files and run again, when "
            "the machine has nothing else to do, to measure them anew."
        )
    return sentences


def resampling(compared: pd.DataFrame) -> list[str]:
    """How the images of every dataset were resampled, and what they are worth.

    Args:
        compared: Comparisons, with the columns `dataset` and `comparisons.COLUMNS`.
    """
    notes = []
    for dataset, group in compared[compared["images"] > 0].groupby("dataset", sort=False):
        if (group["block"] == 1).all():
            reason = "as nothing says or shows that some resemble others"
            notes.append(f"{dataset}: images are resampled one by one, {reason}.")
            continue
        images, block, worth = (_range(group[key]) for key in ("images", "block", "independent_images"))
        notes.append(
            f"{dataset}: images of a sequence are resampled in blocks of {block} on average (stationary "
            f"bootstrap); {images} images are worth {worth} independent ones."
        )
    return notes


def _range(numbers: pd.Series) -> str:
    """The smallest and the largest of some numbers, or the only one, rounded."""
    ends = dict.fromkeys(f"{number:.0f}" for number in (numbers.min(), numbers.max()))
    return " to ".join(ends)


def _uncompared(compared: pd.DataFrame) -> list[str]:
    """Which scored methods have no interval over images, and why."""
    unknown = compared[(compared["metric"] == "miou") & (compared["seeds"] > 0) & (compared["images"] == 0)]
    return [
        f"No reading of {', '.join(group['method'])} ({dataset}, {model}): {note}."
        for (dataset, model, note), group in unknown.groupby(["dataset", "model", "note"], sort=False)
    ]
