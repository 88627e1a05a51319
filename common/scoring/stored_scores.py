"""The scores of a finished run or control as its counts give them, whatever its record says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import Damaged
from common.runs.records import Metrics, Scores
from common.scoring.counts import REMEDY, SplitCounts

AnyScores = TypeVar("AnyScores", bound=Scores)

OF_PROBABILITIES = ("ece", "nll", "reliability")
"""What is None for labels without probabilities."""


def computed(record: AnyScores, folder: Path, class_names: Sequence[str]) -> tuple[AnyScores, list[str]]:
    """A record with the scores that its counts per image give.

    Args:
        record: What `metrics.json` says.
        folder: Where that and `per_image.npz` lie.
        class_names: One name per class.

    Returns:
        The record, and the names of the scores that it had otherwise.

    Raises:
        UserError: The counts are missing, damaged, of other images, classes or scores, or out of reach.
    """
    path = folder / "per_image.npz"
    if path.name not in record.files:
        raise Damaged(folder / "metrics.json", f"does not tell of {path.name}", REMEDY)
    counts = SplitCounts.read(path, record.files[path.name])
    if counts.confusion.shape[-1] != len(class_names):
        raise Damaged(path, f"is of {counts.confusion.shape[-1]} classes, not {len(class_names)}", REMEDY)
    if not counts.total.any():
        raise Damaged(path, "has no labelled pixel", REMEDY)
    scores: dict[str, Any] = {"images": counts.names.size, **counts.scores(class_names)}
    if isinstance(record, Metrics):
        scores = dict.fromkeys(OF_PROBABILITIES) | scores
    plain = msgspec.to_builtins(scores)
    edited = [key for key in scores if not _equal(msgspec.to_builtins(getattr(record, key)), plain[key])]
    return dataclasses.replace(record, **scores), edited


def in_folder(folder: Path) -> Metrics:
    """The scores in the folder of a run, as their counts give them, whichever run it is.

    Raises:
        UserError: They are missing, damaged, of another folder, or out of reach.
    """
    record = owned(folder)
    return computed(record, folder, [*record.iou])[0]


def owned(folder: Path) -> Metrics:
    """What `metrics.json` in the folder of a run says, whichever run it is.

    Raises:
        UserError: It is missing, damaged, of another folder, or out of reach.
    """
    path = folder / "metrics.json"
    record = Metrics.read_file(path)
    names = (record.dataset, record.model, record.method, f"seed{record.seed}-{record.digest}")
    if names != folder.parts[-4:]:
        raise Damaged(path, f"does not belong to its folder: it is of {'/'.join(names)}", REMEDY)
    return record


def _equal(one: Any, other: Any) -> bool:
    """Whether two plain values are the same, but for the rounding of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [*one] == [*other] and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)
