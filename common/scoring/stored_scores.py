"""The scores of a finished run or control as its counts give them, whatever its record says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import Damaged
from common.files import digest, is_as_written, read_bytes
from common.integrity import StoredFile
from common.runs.records import LATER, Metrics, Reliability, Scores
from common.scoring.counts import REMEDY, LabelScores, SplitCounts

AnyScores = TypeVar("AnyScores", bound=Scores)

Known = MutableMapping[str, msgspec.Raw]
"""The scores that files of counts give, all of `COUNTED` as JSON, by `key_of` the file."""

UNCOUNTED = "what no counts give"
"""What is not computed from counts, such as diagnostics and times."""

OF_PROBABILITIES = ("ece", "nll", "reliability")
"""What is None for labels without probabilities."""

COUNTED = (*OF_PROBABILITIES, "images", *LabelScores.__annotations__)
"""What counts give of a record of scores."""


def computed(
    record: AnyScores,
    folder: Path,
    class_names: Sequence[str],
    known: Known | None = None,
) -> tuple[AnyScores, list[str]]:
    """A record with the scores that its counts per image give.

    Args:
        record: What `metrics.json` says.
        folder: Where that and `per_image.npz` lie.
        class_names: One name per class.
        known: What files of counts gave before, by their content; what this one gives is added.

    Returns:
        The record, and the names of the scores that it had otherwise; `UNCOUNTED` if something else in its
        file was edited.

    Raises:
        UserError: The counts are missing, damaged, of other images, classes or scores, or out of reach.
    """
    path = folder / "per_image.npz"
    if path.name not in record.files:
        raise Damaged(folder / "metrics.json", f"does not tell of {path.name}", REMEDY)
    stored = record.files[path.name]
    key = key_of(stored, class_names)
    if known is not None and key in known:
        stored.check_content(path, read_bytes(path, REMEDY), REMEDY)
        counted = known[key]
    else:
        counted = scores_of(read_counts(path, stored, class_names), class_names)
        if known is not None:
            known[key] = counted
    written = {name: getattr(record, name, None) for name in COUNTED}
    edited: list[str] = []
    if msgspec.json.encode(written) != bytes(counted):
        record, edited = _corrected(record, written, msgspec.json.decode(counted))
    if not edited and not is_as_written(folder / "metrics.json"):
        edited = [UNCOUNTED]
    return record, edited


def _corrected(
    record: AnyScores, written: Mapping[str, Any], counted: Mapping[str, Any]
) -> tuple[AnyScores, list[str]]:
    """A record with other scores than it has, and the names of those that differ.

    Args:
        record: What `metrics.json` says.
        written: What it has of `COUNTED`.
        counted: What counts give, as plain values.
    """
    before = msgspec.to_builtins(written)
    comparable = (name for name in COUNTED if name not in LATER or before[name] not in (None, {}))
    edited = [name for name in comparable if not _equal(before[name], counted[name])]
    scores: dict[str, Any] = {
        name: msgspec.convert(value, Reliability | None) if name == "reliability" else value
        for name, value in counted.items()
        if hasattr(record, name)
    }
    return dataclasses.replace(record, **scores), edited


def key_of(stored: StoredFile, class_names: Sequence[str]) -> str:
    """What the scores of a file of counts are known by: its content, and one name per class."""
    return f"{stored.sha256} {_digest_of(tuple(class_names))}"


@lru_cache(maxsize=1024)
def _digest_of(class_names: tuple[str, ...]) -> str:
    """The digest of the names of classes, which many files have in common."""
    return digest(class_names, length=24)


def scores_of(counts: SplitCounts, class_names: Sequence[str]) -> msgspec.Raw:
    """All of `COUNTED` as JSON, which is null where counts say nothing of it."""
    scores: dict[str, Any] = {"images": counts.names.size, **counts.scores(class_names)}
    return msgspec.Raw(msgspec.json.encode({name: scores.get(name) for name in COUNTED}))


def read_counts(path: Path, stored: StoredFile, class_names: Sequence[str]) -> SplitCounts:
    """The counts in a file, if they give scores of these classes.

    Args:
        path: The file.
        stored: What the record of the scores says of it.
        class_names: One name per class.

    Raises:
        UserError: They are missing, damaged, of other classes, of no labelled pixel, or out of reach.
    """
    counts = SplitCounts.read(path, stored)
    if counts.confusion.shape[-1] != len(class_names):
        raise Damaged(path, f"is of {counts.confusion.shape[-1]} classes, not {len(class_names)}", REMEDY)
    if not counts.total.any():
        raise Damaged(path, "has no labelled pixel", REMEDY)
    return counts


def in_folder(folder: Path, known: Known | None = None) -> Metrics:
    """The scores in the folder of a run, as their counts give them, whichever run it is.

    Args:
        folder: The folder.
        known: As of `computed`.

    Raises:
        UserError: They are missing, damaged, of another folder, or out of reach.
    """
    record = owned(folder)
    return computed(record, folder, [*record.iou], known)[0]


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


def edited_sentence(path: Path, names: Sequence[str]) -> str:
    """What to say of a record that was edited.

    Args:
        path: Its file.
        names: As of `computed`.
    """
    if UNCOUNTED in names:
        return (
            f"{path} is not as it was written (its checksum differs): {UNCOUNTED}, such as diagnostics and "
            "times, may be wrong"
        )
    return (
        f"{path} says something else of {', '.join(names)} than its counts give, from which the tables are "
        "computed: it was edited, or other code wrote it"
    )


def _equal(one: Any, other: Any) -> bool:
    """Whether two plain values are the same, but for the rounding of numbers."""
    if one == other and not isinstance(one, Mapping):
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [*one] == [*other] and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)
