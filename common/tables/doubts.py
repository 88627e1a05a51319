"""Which measured times are not to be relied on: those of a busy machine, and those that disagree.

What disagrees are times that should be equal: of one method with several seeds, of one network under several
methods, and of one training that several methods share.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from common.runs.records import Cost
from common.tables.costs import training_costs
from common.tables.results import Row

TOLERANCE = 0.15
"""Equal times that were measured twice disagree if one is by more than this share above the other."""

Kind = Literal["latency", "training"]
"""Which times: of inference, or of steps of training."""

Measured = tuple[Row, list[Cost]]
"""A row, and what it cost on one device."""


@dataclass(frozen=True)
class Doubt:
    """Why times of some rows are doubtful.

    Attributes:
        keys: Names of dataset, model and method of the rows.
        device: That the times were measured on.
        kind: Which times.
        word: Why, in a word or two, for a cell.
        sentence: Why, for a note; empty if that of another doubt says it.
    """

    keys: tuple[tuple[str, str, str], ...]
    device: str
    kind: Kind
    word: str
    sentence: str = ""


def doubts(rows: Sequence[Row]) -> list[Doubt]:
    """What there is to doubt of the costs of rows, those of several datasets and models."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group.key, []).append(row)
    return [doubt for members in groups.values() for doubt in _of_group(members)]


def words(doubted: Iterable[Doubt], row: Row, device: str, kind: Kind) -> str:
    """Why times of a row on a device are doubtful, in a few words; empty if they are not."""
    own = [d.word for d in doubted if (d.device, d.kind) == (device, kind) and row.key in d.keys]
    return ", ".join(dict.fromkeys(own))


def _of_group(rows: Sequence[Row]) -> Iterator[Doubt]:
    """What there is to doubt of the costs of one dataset and model."""
    trainings = training_costs(rows)
    for device in sorted({cost.device for row in rows for cost in row.costs}):
        measured: list[Measured] = []
        trained: list[Measured] = []
        for row, training in zip(rows, trainings):
            own = [cost for cost in row.costs if cost.device == device]
            if own:
                measured.append((row, own))
                trained.append((row, [cost for cost in training if cost.device == device]))
        yield from _busy(measured, trained, device)
        yield from _between_seeds(measured, device)
        yield from _between_networks(measured, device)
        yield from _between_trainings(trained, device)


def _busy(measured: Sequence[Measured], trained: Sequence[Measured], device: str) -> Iterator[Doubt]:
    """Which rows were measured on a busy machine, themselves or in what they share of training."""
    word = "busy machine"
    reasons = {row.key: cost.load.busy for row, costs in measured for cost in costs if cost.load.busy}
    if reasons:
        dataset, model, _ = next(iter(reasons))
        listed = "; ".join(f"{method} ({reason})" for (_, _, method), reason in reasons.items())
        sentence = f"measured on a busy machine ({dataset}, {model}): {listed}"
        yield Doubt(tuple(reasons), device, "latency", word, sentence)
        keys = tuple(row.key for row, costs in trained if any(cost.load.busy for cost in costs))
        yield Doubt(keys, device, "training", word)


def _between_seeds(measured: Sequence[Measured], device: str) -> Iterator[Doubt]:
    """Which rows' latencies disagree between seeds."""
    for row, costs in measured:
        times = [cost.latency_ms for cost in costs]
        if _disagree(times):
            sentence = f"latency of {_names([row])} differs between seeds: {_range(times)}"
            yield Doubt((row.key,), device, "latency", "seeds disagree", sentence)


def _between_networks(measured: Sequence[Measured], device: str) -> Iterator[Doubt]:
    """Which equal networks take different times: those with as many parameters and operations."""
    networks: dict[Hashable, list[tuple[Row, float]]] = {}
    for row, costs in measured:
        for cost in costs:
            images = (cost.multiply_adds_size, *cost.image_sizes)
            structure = tuple(cost.uncounted_operations)
            key = (cost.parameters, cost.multiply_adds, structure, images)
            networks.setdefault(key, []).append((row, cost.network_ms))
    for members in networks.values():
        rows = list({row.key: row for row, _ in members}.values())
        times = [time for _, time in members]
        if len(rows) > 1 and _disagree(times):
            sentence = f"equal networks of {_names(rows)} differ in their part of latency: {_range(times)}"
            keys = tuple(row.key for row in rows)
            yield Doubt(keys, device, "latency", "equal networks disagree", sentence)


def _between_trainings(trained: Sequence[Measured], device: str) -> Iterator[Doubt]:
    """Which measurements of one training disagree, with several seeds or under several methods."""
    sharing: dict[Hashable, list[Measured]] = {}
    for row, costs in trained:
        sharing.setdefault(row.trained_as, []).append((row, costs))
    for members in sharing.values():
        rows, costs = [row for row, _ in members], members[0][1]  # they share the costs of the training
        for batch in sorted({cost.training_batch for cost in costs}):
            times = [cost.training_step_ms for cost in costs if cost.training_batch == batch]
            if _disagree(times):
                sentence = f"training steps of the same models, of {_names(rows)}, differ: {_range(times)}"
                keys = tuple(row.key for row in rows)
                yield Doubt(keys, device, "training", "same trainings disagree", sentence)


def _disagree(times: Sequence[float]) -> bool:
    """Whether times that should be equal are not."""
    return max(times) > (1 + TOLERANCE) * min(times)


def _range(times: Sequence[float]) -> str:
    """The least and the greatest of some times, in words."""
    return f"{min(times):.1f} to {max(times):.1f} ms"


def _names(rows: Sequence[Row]) -> str:
    """Rows of one dataset and model, in words."""
    return f"{', '.join(row.method for row in rows)} ({rows[0].dataset}, {rows[0].model})"
