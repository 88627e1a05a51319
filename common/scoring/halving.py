"""Successive halving: which candidates of a search go on to its next round, and which is the best.

Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016, arXiv
1502.07943. How many are trained in every round is known before (`config.tuning.rungs`), so the workflow
plans all trainings as jobs; which candidate a job is about follows from the scores of the round before.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.runs.records import Trial
from common.runs.searches import Search


def contenders(search: Search, rung: int) -> list[int]:
    """The candidates of a round, in the order of their places: by what they reached in the round before.

    The entry as it stands in the configuration, candidate 0, is always among them: what the search has gained
    is known after whole trainings.

    Args:
        search: The search.
        rung: The round.

    Raises:
        UnreadableRecord: A score of the round before is missing or damaged.
    """
    if rung == 0:
        return list(range(len(search.candidates)))
    best = [trial.candidate for trial in ranked(trials(search, rung - 1))]
    count = search.rungs[rung].candidates
    return best[:count] if 0 in best[:count] else [*best[: count - 1], 0]


def trials(search: Search, rung: int) -> list[Trial]:
    """What came of the candidates of a round.

    Raises:
        UnreadableRecord: A score is missing or damaged.
    """
    return [Trial.read(search.scores(rung, place)) for place in range(search.rungs[rung].candidates)]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials, the best first; those without an end come last, and of equal ones the first candidate first."""
    return sorted(trials, key=lambda trial: (trial.miou is None, -(trial.miou or 0), trial.candidate))
