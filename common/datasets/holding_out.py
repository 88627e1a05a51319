"""Images that are held out of training, to validate on where no labelled split is to spare."""

from __future__ import annotations

import random
from collections.abc import Sequence

from common.datasets.split import Split
from common.errors import UserError
from common.seeds import derive


def held_out(split: Split, share: float, seed: int) -> list[int]:
    """The indices of the images that are held out, in order; images of a sequence stay together.

    Sequences come in an order that is drawn, an image that belongs to none as a sequence of its own. Those
    are taken that bring the number of images nearer to the share that is asked for: at least one, not all.

    Args:
        split: The images.
        share: Of them, how many are to be held out.
        seed: Of the order.

    Raises:
        UserError: All images are of one sequence.
    """
    groups = _sequences(split)
    if len(groups) < 2:
        raise UserError(
            f"dataset {split.dataset.entry}: all images that are trained on belong to one sequence, of which "
            "no part can be held out: set tuning.hold_out to null and tuning.split to a split of its own"
        )
    random.Random(derive(seed, "hold out")).shuffle(groups)
    aim = share * len(split)
    held_out: list[int] = []
    for group in groups:
        more = len(held_out) + len(group)
        nearer = abs(more - aim) < abs(len(held_out) - aim)
        if nearer and more < len(split):
            held_out += group
    if not held_out:
        held_out = min(groups, key=len)
    return sorted(held_out)


def others(split: Split, indices: Sequence[int]) -> list[int]:
    """The indices of all images but some."""
    left_out = {*indices}
    return [index for index in range(len(split)) if index not in left_out]


def _sequences(split: Split) -> list[list[int]]:
    """The indices of the images of every sequence."""
    groups: dict[tuple[str, str | int], list[int]] = {}
    for index, (part, name) in enumerate(split.names):
        place = split.dataset.sequence(part, name)
        groups.setdefault((part, place[0] if place else index), []).append(index)
    return list(groups.values())
