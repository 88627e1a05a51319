"""What a family of kernels measures: cases, each a row of its table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Timing = dict[str, Any]
"""A row of a table of times, by the names of its columns."""


@dataclass(frozen=True)
class Effort:
    """How often things are timed, if there is time for it.

    Attributes:
        passes: Forward and backward passes of a version, refinements of a batch.
        steps: Steps of training.
        inferences: Inferences of a single image.
    """

    passes: int
    steps: int
    inferences: int


FULL = {
    "cpu": Effort(passes=5, steps=5, inferences=10),
    "cuda": Effort(passes=15, steps=15, inferences=50),
}
"""By kind of device."""

QUICK = Effort(passes=3, steps=4, inferences=5)


@dataclass(frozen=True)
class Bench:
    """Where and how cases are measured.

    Attributes:
        device: Where.
        copy_speed: What a large copy reads and writes there, in bytes per second.
        effort: How often.
    """

    device: torch.device
    copy_speed: float
    effort: Effort


class Case(NamedTuple):
    """One row to be measured.

    Attributes:
        place: The columns that say what is compared: rows that share them stand side by side.
        version: One of several that do the same there.
        measure: Measures it: the other columns.
        baseline: Whether it is none of ours, but what ours replaces; such cases are measured if asked for.
        reference: Whether the others are compared with this one.
    """

    place: Mapping[str, Any]
    version: str
    measure: Callable[[], Timing]
    baseline: bool = False
    reference: bool = False

    @property
    def key(self) -> Timing:
        """The columns that tell it from all other cases of its family."""
        return {**self.place, "version": self.version}


Family = Callable[[Bench], Iterator[Case]]
"""The cases of a family, made as they are asked for: those of one size free what the last one held."""
