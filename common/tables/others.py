"""Results that lie beside those of the configuration, but are not of it: what they are, how they differ.

They are in no rank, interval or comparison, and each stands alone: what has another digest is never averaged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from common.config.method_code import code_digest
from common.config.settings import plain
from common.datasets.manifest import content_of
from common.errors import UserError
from common.runs import recipes
from common.runs.configurations import made_by
from common.runs.jobs import Run, TrainedRun
from common.runs.outputs import TABLES
from common.runs.plan import Benchmark
from common.runs.records import Metrics, TrainedModelFacts
from common.scoring.stored_scores import in_folder, owned
from common.tables.cells import DASH, number, scored_on
from common.tables.frames import read_csv
from common.tables.results import Known, Result

TITLE = "Other results here"

ABOUT = (
    "Results in this folder that are not of the configuration. They are in no rank, interval or comparison, "
    "and each stands alone; *differs* says what they have otherwise than the run of the configuration that "
    "is most like them."
)

COLUMNS = (
    "dataset",
    "model",
    "method",
    "recipes",
    "digest",
    "seed",
    "scored_on",
    "images",
    "miou",
    "boundary_iou",
)
"""The columns of the table, but for `differs`."""

NAMED = 6
"""How many differences of one result are named."""


@dataclass(frozen=True)
class Others:
    """The results that are not of the configuration.

    Attributes:
        results: The folders of results and their scores, by dataset, model, recipe, method, digest.
        unreadable: What is wrong with those that are left out, in sentences.
    """

    results: Sequence[tuple[Path, Metrics]]
    unreadable: Sequence[str]

    def table(self, benchmark: Benchmark) -> pd.DataFrame:
        """A line per result: `COLUMNS`, scores in percent, and in `differs` what it has otherwise."""
        lines = [[*_line(metrics), "; ".join(differences(metrics, benchmark))] for _, metrics in self.results]
        return pd.DataFrame(lines, columns=[*COLUMNS, "differs"])


def read_others(benchmark: Benchmark, known: Known | None = None) -> Others:
    """The other results with their scores, as their counts give them; what is damaged stays as it is.

    Args:
        benchmark: The runs that are no others.
        known: The scores that files of counts gave before, as of `RememberedScores`; more are added.
    """
    return _others(benchmark, partial(in_folder, known=known))


def list_others(benchmark: Benchmark) -> Others:
    """The other results as their records tell of them, whose counts are not read."""
    return _others(benchmark, owned)


def _others(benchmark: Benchmark, read: Callable[[Path], Metrics]) -> Others:
    results, unreadable = [], []
    for path in benchmark.others():
        try:
            results.append((path.parent, read(path.parent)))
        except UserError as error:
            unreadable.append(str(error))
    results.sort(key=lambda result: _order(result[1]))
    return Others(results, unreadable)


def _order(metrics: Metrics) -> tuple[Any, ...]:
    return metrics.dataset, metrics.model, _recipe(metrics), metrics.method, metrics.seed, metrics.digest


def _line(metrics: Metrics) -> list[Any]:
    """The values of `COLUMNS`."""
    names = [metrics.dataset, metrics.model, metrics.method, _recipe(metrics), metrics.digest, metrics.seed]
    boundary = None if metrics.boundary_iou is None else 100 * metrics.boundary_iou
    return [*names, scored_on(metrics.evaluation), metrics.images, 100 * metrics.miou, boundary]


def _recipe(metrics: Metrics) -> str:
    """By which recipes a result was made."""
    trained = f"training {metrics.trained.recipe}, " if metrics.trained else ""
    return f"{trained}scoring {metrics.recipe}"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it."""
    lines = []
    for line in table.to_dict("records"):
        names = {key: line[key] for key in COLUMNS[:6]}
        scores = {"mIoU %": number(line["miou"], 2), "boundary IoU %": number(line["boundary_iou"], 2)}
        lines.append({**names, "scored on": line["scored_on"], **scores, "differs": line["differs"] or DASH})
    return pd.DataFrame(lines)


# How results differ


def differences(metrics: Metrics, benchmark: Benchmark) -> list[str]:
    """What a result has otherwise than the run of the configuration that is most like it.

    Args:
        metrics: The scores, which are not of the configuration.
        benchmark: The configuration.
    """
    alike = [run for run in benchmark.runs if run.dataset == metrics.dataset]
    if not alike:
        return [f"dataset {metrics.dataset} is not in the configuration"]
    parts = []
    for kind, name in (("model", metrics.model), ("method", metrics.method), ("seed", metrics.seed)):
        same = [run for run in alike if getattr(run, kind) == name]
        if not same:
            parts.append(f"{kind} {name} is not in the configuration")
        if not same and kind == "model":
            return parts
        alike = same or alike
    run = next(
        (run for run in alike if isinstance(run, TrainedRun) == (metrics.trained is not None)), alike[0]
    )
    parts += _differences(metrics, run)
    if len(parts) > NAMED:
        parts = [*parts[:NAMED], f"and {len(parts) - NAMED} more"]
    return parts or ["something that its record does not tell of"]


def _differences(metrics: Metrics, run: Run) -> Iterator[str]:
    """What a result has otherwise than one run."""
    if metrics.recipe != recipes.SCORING.number:
        yield f"scoring by recipe {metrics.recipe}, not {recipes.SCORING.number}"
    if content_of(run.data.path) not in (None, metrics.content_sha256):
        yield "other images or labels"
    yield from _settings("evaluation", metrics.evaluation, run.evaluation)
    if not isinstance(run, TrainedRun) or metrics.trained is None:
        if isinstance(run, TrainedRun) or metrics.trained:
            yield f"{'a trained model' if metrics.trained else 'predictions read from a folder'}"
        elif metrics.method == run.method:
            yield "other predictions"
        return
    yield from _settings("model_options", metrics.model_options or {}, run.training.model_options)
    yield from _of_training(metrics.trained, run)
    if metrics.method != run.method:
        return
    if metrics.trained_as != run.training.method:
        yield f"trained as {metrics.trained_as}, not as {run.training.method}"
    elif metrics.method != metrics.trained_as:
        training = run.training.entry
        yield from _method(
            training.name,
            training.module,
            training.options,
            metrics.trained.method_code,
            metrics.trained.method_options,
        )
    if metrics.method_module != run.entry.module:
        yield f"module {metrics.method_module}, not {run.entry.module}"
        return
    yield from _method(
        run.method, run.entry.module, run.entry.options, metrics.method_code, metrics.method_options
    )


def _of_training(facts: TrainedModelFacts, run: TrainedRun) -> Iterator[str]:
    """What a model was trained with otherwise than that of a run."""
    if facts.recipe != recipes.TRAINING.number:
        yield f"training by recipe {facts.recipe}, not {recipes.TRAINING.number}"
    if run.training.weights_sha256 not in (None, facts.weights_sha256):
        yield "another file of first weights"
    if facts.training:
        yield from _settings("training", facts.training, run.training.settings)


def _method(
    name: str, module: str, options: Mapping[str, Any], code: str | None, before: Mapping[str, Any] | None
) -> Iterator[str]:
    """What a method had otherwise.

    Args:
        name: Of its entry.
        module: Of `methods/`.
        options: As they are now.
        code: The digest of its code then, if it is known.
        before: Its options then, if they are known.
    """
    if before is not None:
        yield from _settings(f"options of {name}", before, options)
    if code is not None and code != code_digest(module):
        yield f"the code of methods/{module}.py"


def _settings(section: str, before: Any, now: Any) -> Iterator[str]:
    """Which settings differ, with both values."""
    old, new = (_plain(settings) for settings in (before, now))
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            yield f"{section}: {key} {json.dumps(old.get(key))}, not {json.dumps(new.get(key))}"


def _plain(settings: Any) -> dict[str, Any]:
    """Settings as JSON has them."""
    return dict(json.loads(json.dumps(plain(settings))))


# Tables that are not to be replaced


def check_kept(benchmark: Benchmark, others: Others) -> None:
    """Refuses to replace tables that show results by ones that show none.

    Args:
        benchmark: The configuration, of which no run has a result.
        others: The results that lie here.

    Raises:
        UserError: The tables that are there have scores; the sentence says which configurations made them.
    """
    results = benchmark.outputs.results
    if not _has_scores(results / "leaderboard.csv"):
        return
    if not others.results:
        raise UserError(
            f"no run of this configuration has a result, and no other lies in {results / 'runs'}: the tables "
            f"in {results} stay as they are, all that is left of results; delete {results / TABLES[1]} if "
            "they are to be made anew"
        )
    raise UserError(
        f"no run of this configuration has a result, so the tables in {results} stay as they are; "
        f"{origin_sentence(benchmark, others)}"
    )


def other_notes(benchmark: Benchmark, results: Sequence[Result], others: Others) -> list[str]:
    """What a reader must know of results that are not of the configuration.

    Args:
        benchmark: The configuration.
        results: Of its runs.
        others: The results that are not of it.
    """
    notes = []
    if others.results and not any(result.metrics for result in results):
        sentence = origin_sentence(benchmark, others)
        notes.append(f"WARNING: no run of this configuration has a result; {sentence}.")
    if others.unreadable:
        count = len(others.unreadable) - 1
        more = f" and {count} more" if count else ""
        notes.append(f"WARNING: left out of the other results here: {others.unreadable[0]}{more}.")
    return notes


def origin_sentence(benchmark: Benchmark, others: Others) -> str:
    """How many other results lie here, and which configurations made them."""
    results, count = benchmark.outputs.results, len(others.results)
    made = made_by(results, {folder for folder, _ in others.results})
    rest = count - sum(made.values())
    lie = f"{count} other {'result lies' if count == 1 else 'results lie'} in {results / 'runs'}"
    if not made:
        return f"{lie}, which no configuration in {results / 'configs'} makes with the code of today"
    named = ", ".join(f"--configfile {path} ({number} of them)" for path, number in made.items())
    old = f"; {rest} are of none with the code of today" if rest else ""
    return f"{lie}: give a configuration that made some, {named}{old}"


def _has_scores(path: Path) -> bool:
    """Whether a leaderboard has a row with scores, controls aside."""
    try:
        table = read_csv(path)
        return bool(((table["seeds"] > 0) & ~table["control"].astype(bool)).any())
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        return False
