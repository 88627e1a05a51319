"""What the section `tuning` asks for: the entries that are searched, and the candidates of each.

A candidate is a part of a configuration that is laid over the rest, as the chosen one will be.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.config import entries
from common.config.entries import Config
from common.config.method_entry import MethodEntry
from common.config.schema import plain_numbers
from common.config.settings import TuningSettings, typed
from common.seeds import derive

TRAINING = "training."
"""What the names of settings of training begin with, in a grid and in tables of candidates."""

FACTOR = re.compile(r"x([0-9]+(?:\.[0-9]+)?)")
"""A value of a grid that is a multiple of the entry's own."""

Grid = Mapping[str, Sequence[Any]]
"""Values to try by option, or by setting of training."""


@dataclass(frozen=True)
class Candidate:
    """What a search tries of an entry; nothing in it is the entry as it stands in the configuration.

    Attributes:
        options: Values of options of the method.
        training: Values of settings of training.
    """

    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Candidate:
        """The candidate with values by their names in a grid."""
        options = {key: value for key, value in values.items() if not key.startswith(TRAINING)}
        training = {key.removeprefix(TRAINING): value for key, value in values.items() if key not in options}
        return cls(options, training)

    def over(self, name: str, dataset: str, **more: Any) -> Config:
        """The part of a configuration that sets it for an entry, on one dataset.

        Args:
            name: Of the entry.
            dataset: Name of the dataset.
            **more: What else is set for the entry there.
        """
        training = {"training": self.training} if self.training else {}
        return {"method_options": {name: {"per_dataset": {dataset: self.options | training | more}}}}


@dataclass(frozen=True)
class Candidates:
    """What a search tries, and of how many.

    Attributes:
        sample: The candidates; the first is the entry as it stands in the configuration.
        possible: How many the grid has, that one included.
    """

    sample: tuple[Candidate, ...]
    possible: int


class Rung(NamedTuple):
    """One round of a search by trainings.

    Attributes:
        share: Of the iterations of a whole training.
        candidates: How many are trained.
    """

    share: float
    candidates: int


def settings(config: Config) -> TuningSettings:
    """The section `tuning`."""
    return typed(TuningSettings, config["tuning"])


def grids(config: Config) -> dict[str, Grid]:
    """What there is to try, by the names of entries, in a fixed order of names and options."""
    methods = sorted(settings(config).methods.items())
    return {name: dict(sorted(grid.items())) for name, grid in methods if grid}


def searched(config: Config) -> list[str]:
    """The entries that searches are for: those that are run and that there is something to try of."""
    return [name for name in grids(config) if name in config["methods"]]


def values(config: Config, name: str, dataset: str, model: str) -> dict[str, Any]:
    """The values that an entry has of what its grid names.

    Raises:
        UserError: There is no such entry, or it is wrong.
    """
    entry = entries.method(config, name, dataset)
    training = entries.settings(config, "training", dataset, model, entry)
    return {
        key: training[key.removeprefix(TRAINING)] if key.startswith(TRAINING) else entry.options[key]
        for key in grids(config)[name]
    }


def candidates(config: Config, name: str, dataset: str, model: str) -> Candidates:
    """What a search tries: the entry as it is and the combinations of its grid, or a sample of them.

    Raises:
        UserError: There is no such entry, or it is wrong.
    """
    own, wanted = values(config, name, dataset, model), settings(config)
    grid = {key: [multiplied(value, own[key]) for value in some] for key, some in grids(config)[name].items()}
    others = [_key(combination) for combination in combinations(grid)]
    others = [text for text in dict.fromkeys(others) if text != _key(own)]
    if len(others) >= wanted.candidates:
        drawn = random.Random(derive(wanted.seed, f"candidates of {name}"))
        places = sorted(drawn.sample(range(len(others)), wanted.candidates - 1))
        chosen = [others[place] for place in places]
    else:
        chosen = others
    sample = (Candidate(), *(Candidate.of(json.loads(text)) for text in chosen))
    return Candidates(sample, 1 + len(others))


def multiplied(value: Any, own: Any) -> Any:
    """A value of a grid; of a text such as x0.5 that multiple of the entry's own value, if this is a number.

    Args:
        value: As it stands in the grid.
        own: What the entry has.
    """
    factor = FACTOR.fullmatch(value) if isinstance(value, str) else None
    if factor is None or isinstance(own, bool) or not isinstance(own, int | float):
        return value
    return plain_numbers(float(f"{float(factor[1]) * own:.12g}"))  # 3 × 0.1 is 0.3


def combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """All combinations of a grid; where values are lists, they are the values of each number of an option."""
    choices = [
        [list(numbers) for numbers in itertools.product(*values)] if isinstance(values[0], list) else values
        for values in grid.values()
    ]
    return (dict(zip(grid, combination)) for combination in itertools.product(*choices))


def size(grid: Grid) -> int:
    """How many combinations a grid has."""
    each = (
        math.prod(map(len, values)) if all(isinstance(value, list) for value in values) else len(values)
        for values in grid.values()
    )
    return math.prod(each)


def rungs(settings: TuningSettings, count: int) -> tuple[Rung, ...]:
    """The rounds of a search by trainings, of which each costs about as much as the first.

    Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all candidates are trained for a share
    of the iterations, the better ones for a larger share, and so on. At least two are left at the end: the
    best one, and the entry as it is, which is never left out.

    Args:
        settings: The section `tuning`.
        count: How many candidates there are.
    """
    first = settings.rungs[0]
    return tuple(
        Rung(share, min(count, max(2, math.ceil(count * first / share - 1e-9)))) for share in settings.rungs
    )


def budget(settings: TuningSettings, count: int) -> float:
    """What a search by trainings may take, in whole trainings."""
    return round(sum(rung.share * rung.candidates for rung in rungs(settings, count)), 6)


def trains(entry: MethodEntry) -> bool:
    """Whether a search for an entry trains its candidates; if not, they refine what a trained model gives."""
    return entry.trained_as is None


def _key(values: Mapping[str, Any]) -> str:
    """Values as a text that is the same for the same ones."""
    return json.dumps(values, sort_keys=True)
