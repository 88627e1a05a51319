"""The scores of a finished run or control as its counts give them, whatever its record says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import Damaged
from common.files import digest, is_as_written, read_bytes
from common.integrity import StoredFile
from common.runs.records import LATER, Metrics, Reliability, Scores
from common.scoring.counts import REMEDY, SplitCounts

AnyScores = TypeVar("AnyScores", bound=Scores)

UNCOUNTED = "what no counts give"
"""What is not computed from counts, such as diagnostics and times."""

OF_PROBABILITIES = ("ece", "nll", "reliability")
"""What is None for labels without probabilities."""


def computed(
    record: AnyScores,
    folder: Path,
    class_names: Sequence[str],
    known: MutableMapping[str, dict[str, Any]] | None = None,
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
    key = digest([stored.sha256, list(class_names)], length=24)
    if known is not None and key in known:
        stored.check_content(path, read_bytes(path, REMEDY), REMEDY)
        plain = known[key]
    else:
        plain = _counted(path, stored, class_names)
        if known is not None:
            known[key] = plain
    if isinstance(record, Metrics):
        plain = dict.fromkeys(OF_PROBABILITIES) | plain
    told = {name: msgspec.to_builtins(getattr(record, name)) for name in plain}
    known_to_record = (name for name in plain if told[name] or name not in LATER)
    same = told == plain and msgspec.json.encode(told) == msgspec.json.encode(plain)
    edited = [] if same else [name for name in known_to_record if not _equal(told[name], plain[name])]
    if not edited and not is_as_written(folder / "metrics.json"):
        edited = [UNCOUNTED]
    scores: dict[str, Any] = {
        name: msgspec.convert(value, Reliability | None) if name == "reliability" else value
        for name, value in plain.items()
    }
    return dataclasses.replace(record, **scores), edited


def _counted(path: Path, stored: StoredFile, class_names: Sequence[str]) -> dict[str, Any]:
    """The scores that a file of counts gives, as plain values.

    Args:
        path: The file.
        stored: What the record of the scores says of it.
        class_names: One name per class.
    """
    counts = SplitCounts.read(path, stored)
    if counts.confusion.shape[-1] != len(class_names):
        raise Damaged(path, f"is of {counts.confusion.shape[-1]} classes, not {len(class_names)}", REMEDY)
    if not counts.total.any():
        raise Damaged(path, "has no labelled pixel", REMEDY)
    return msgspec.to_builtins({"images": counts.names.size, **counts.scores(class_names)})


def in_folder(folder: Path, known: MutableMapping[str, dict[str, Any]] | None = None) -> Metrics:
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
