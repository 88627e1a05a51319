"""What a reader must know of where rows come from: code, recipes, packages, threads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from common.provenance import Provenance
from common.runs import recipes
from common.runs.records import Cost, Metrics
from common.tables.results import ControlRow, Row

DECISIVE = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy")
"""The packages whose version may change a result."""


def origin_notes(rows: Sequence[Row], controls: Sequence[ControlRow]) -> list[str]:
    """By what rows were made, with a warning where one was made by something else than another.

    Args:
        rows: Of all datasets and models.
        controls: Those of all datasets and models.
    """
    scores = [metrics for row in rows for metrics in row.scores]
    measured = [cost for row in rows for cost in row.costs]
    trained = [origin for metrics in scores for origin in _of_training(metrics)]
    scored = [metrics.provenance for metrics in scores]
    everything = [*trained, *scored, *(cost.provenance for cost in measured)]
    everything += [metrics.provenance for control in controls for metrics in control.scores]
    return [
        *_recipes(scores, measured),
        *_code(everything),
        *_packages(everything),
        *_threads(trained, "trained"),
        *_threads(scored, "scored"),
    ]


def _of_training(metrics: Metrics) -> list[Provenance]:
    """How the model came to be that was scored, process by process."""
    return [*metrics.trained.earlier, metrics.trained.provenance] if metrics.trained else []


def _recipes(scores: Sequence[Metrics], measured: Sequence[Cost]) -> Iterator[str]:
    """By which recipes the rows were made."""
    numbers = {
        recipes.TRAINING.name: {metrics.trained.recipe for metrics in scores if metrics.trained},
        recipes.SCORING.name: {metrics.recipe for metrics in scores},
        recipes.MEASURING.name: {cost.recipe for cost in measured},
    }
    listed = ", ".join(f"{name} {' and '.join(map(str, sorted(n)))}" for name, n in numbers.items() if n)
    if any(len(numbers[name]) > 1 for name in (recipes.TRAINING.name, recipes.SCORING.name)):
        yield f"WARNING: rows were made by different recipes, which do not compare: {listed}."
    elif listed:
        yield f"Recipes: {listed}."


def _code(origins: Iterable[Provenance]) -> Iterator[str]:
    """Whether the code differs: commits may differ without it, and uncommitted changes within one."""
    named = {origin.code or origin.commit: _code_name(origin) for origin in origins}
    if len(named) > 1:
        yield f"WARNING: rows were made by different code: {', '.join(sorted(named.values()))}."
    elif any("+changes" in name for name in named.values()):
        yield f"The code had uncommitted changes: {', '.join(named.values())}."


def _code_name(origin: Provenance) -> str:
    """The commit, shortened, and the digest of the code where the commit does not tell."""
    commit, plus, _ = str(origin.commit).partition("+")
    changes = f"{commit[:10]}{'+changes' if plus else ''}"
    return f"{changes} (code {origin.code})" if origin.code and (plus or not origin.commit) else changes


def _packages(origins: Sequence[Provenance]) -> Iterator[str]:
    """Which packages that matter had several versions."""
    differing = []
    for package in DECISIVE:
        versions = {origin.packages.get(package) or "none" for origin in origins}
        if len(versions) > 1:
            differing.append(f"{package} ({', '.join(sorted(versions))})")
    if differing:
        yield f"WARNING: rows were computed with different versions of {' and '.join(differing)}."


def _threads(origins: Iterable[Provenance], what: str) -> Iterator[str]:
    """Whether CPUs had different numbers of threads, by what `devices.describe` says of them."""
    matches = (re.search(r", (\d+) threads$", origin.device) for origin in origins)
    numbers = sorted({int(match[1]) for match in matches if match})
    if len(numbers) > 1:
        yield (
            f"WARNING: rows were {what} on CPUs with different numbers of threads "
            f"({', '.join(map(str, numbers))}): equal runs differ by rounding."
        )
