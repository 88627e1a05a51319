"""Stage `tune`: tries settings of an entry on images that the tables do not score, and says which are best.

Candidates that refine the output of another entry's model are tried on all images, one image after the
other. Others are trained, in rounds: a whole search trains what is not there yet, one candidate after the
other; with `--round` and `--place`, as the workflow calls it, one candidate of a round is trained and scored,
so that those of a round may run side by side. What an interruption ends goes on from its last checkpoint or
image.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

from common import failures
from common.config.entries import Config
from common.config.settings import Execution
from common.datasets.split import Split
from common.errors import Diverged, UserError
from common.files import locked
from common.machine import devices, job_locks
from common.prediction.predictor import Predictor
from common.provenance import Provenance
from common.runs.jobs import TrainedRun, Training
from common.runs.records import Chosen, Trial
from common.runs.searches import Search
from common.scoring import halving, metrics, search_report
from common.scoring.candidates import candidate_counts, spread
from common.stages import entry
from common.training.images import validation_images
from common.training.train import train
from methods import Method


def tune(search: Search, execution: Execution) -> Chosen:
    """Tries what was not tried yet, and writes the table of all candidates, the best one, and a report.

    Returns:
        What was chosen.

    Raises:
        UserError: The trained model or the data are missing, a candidate cannot work with an image, or no
            candidate has an end.
    """
    with failures.recording_failure(search.error, "tune"):
        if not search.trains:
            return _refine(search, execution)
        for rung, (_, count) in enumerate(search.rungs):
            for place in range(count):
                attempt(search, rung, place, execution)
        return _conclude(search, execution)


def attempt(search: Search, rung: int, place: int, execution: Execution) -> None:
    """Trains the candidate at a place of a round and writes what it reaches, unless that is there.

    Its model is deleted when it has been scored: whatever is chosen is trained with the seeds that count.
    That of the entry as it is stays: other searches may start from it.

    Args:
        search: The search.
        rung: The round.
        place: The place in the round.
        execution: How things are run.

    Raises:
        UserError: The round before is not complete, the data are missing, or the training fails.
    """
    file = search.scores(rung, place)
    if file.exists():
        return
    with failures.recording_failure(file.with_suffix(".error.json"), "tune"):
        candidate = halving.contenders(search, rung)[place]
        run, config = search.trial(candidate, rung)
        as_it_is = run.training.folder == search.run.training.folder
        try:
            (_train_shared if as_it_is else _train)(run.training, execution, config)
            trial = _score(search, run, candidate, f"{rung}-{place}", execution)
        except UserError as error:
            if error.kind != Diverged.kind:
                raise
            trial = Trial(
                candidate=candidate,
                iterations=run.training.settings.iterations,
                failure=str(error),
                provenance=Provenance.now(devices.describe(devices.choose(execution.device))),
            )
        trial.write(file)
        if not as_it_is:
            run.training.file.unlink(missing_ok=True)
            shutil.rmtree(run.training.state, ignore_errors=True)


def _train(training: Training, execution: Execution, config: Config) -> None:
    """Trains a model, and before it what its training starts from."""
    if training.start:
        _train_shared(training.start, execution, config)
    train(training, execution, config)


def _train_shared(training: Training, execution: Execution, config: Config) -> None:
    """Trains a model that several jobs of searches use: the first of them does, the others wait."""
    with locked(training.folder / "search.lock", waiting=True):
        if not training.file.exists():
            _train(training, execution, config)


def _score(search: Search, run: TrainedRun, candidate: int, name: str, execution: Execution) -> Trial:
    """What a trained candidate reaches."""
    split, indices = _images(search)
    with (
        devices.leased(execution.device, execution.runs_per_gpu) as device,
        job_locks.shared(device.type),
    ):
        predictor = Predictor.of(run, device)
        counts = candidate_counts(search.counts(name), predictor, [predictor.method], split, indices)
        confusion = counts[:, 1].sum(axis=0)
        return Trial(
            candidate=candidate,
            iterations=run.training.settings.iterations,
            miou=100 * metrics.mean_iou(confusion),
            pixel_accuracy=100 * metrics.pixel_accuracy(confusion),
            trained=predictor.facts,
            provenance=Provenance.now(devices.describe(device)),
        )


def _images(search: Search) -> tuple[Split, list[int]]:
    """The images that candidates are scored on, as indices into a split."""
    data, settings = search.run.data, search.settings
    if settings.hold_out is None:
        split = Split(data.dataset, data.manifest(), settings.split)
    else:
        split = validation_images(data.dataset, data.manifest(), search.run.training.settings)
    return split, spread(len(split), settings.images)


def _refine(search: Search, execution: Execution) -> Chosen:
    """Tries all candidates of a search on the output of one trained model."""
    if search.settings.hold_out is not None:
        _train_shared(search.run.training, execution, search.config)
    split, indices = _images(search)
    with (
        devices.leased(execution.device, execution.runs_per_gpu) as device,
        job_locks.shared(device.type),
    ):
        predictor = Predictor.of(search.run, device)
        folder = search.counts("refined")
        counts = candidate_counts(folder, predictor, _candidates(search, predictor), split, indices)
        unrefined, *refined = counts.sum(axis=0)
        rows = [
            search_report.Row(
                index, 1.0, 100 * metrics.mean_iou(confusion), 100 * metrics.pixel_accuracy(confusion)
            )
            for index, confusion in enumerate(refined)
        ]
        provenance = Provenance.now(devices.describe(device))
    names, before = [split.names[index][1] for index in indices], 100 * metrics.mean_iou(unrefined)
    return search_report.write(
        search, search_report.Outcome(rows, names, provenance, before, predictor.facts)
    )


def _candidates(search: Search, predictor: Predictor) -> list[Method]:
    """The method with the options of every candidate."""
    network = predictor.model.network
    size = (len(search.run.data.dataset.class_names), network.feature_channels)
    options = (candidate.options for candidate in search.candidates)
    methods = (search.entry.with_options(own).build(*size) for own in options)
    return [method.to(predictor.device).eval() for method in methods]


def _conclude(search: Search, execution: Execution) -> Chosen:
    """Chooses from what was scored in all rounds."""
    split, indices = _images(search)
    rows: dict[int, search_report.Row] = {}
    for rung, (share, _) in enumerate(search.rungs):
        for trial in halving.trials(search, rung):
            row = search_report.Row(
                trial.candidate, share, trial.miou, trial.pixel_accuracy, trial.failure or ""
            )
            rows[trial.candidate] = row
    names = [split.names[index][1] for index in indices]
    provenance = Provenance.now(devices.describe(devices.choose(execution.device)))
    return search_report.write(search, search_report.Outcome([*rows.values()], names, provenance))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, what is searched, and the machine."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model", "method")
    parser.add_argument("--round", type=int, help="train and score one candidate of this round alone")
    parser.add_argument("--place", type=int, default=0, help="which candidate of the round (default: 0)")
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Searches for the selected dataset, model and entry, or tries one candidate."""
    search, execution = entry.search(arguments), entry.execution(arguments)
    if arguments.round is None:
        tune(search, execution)
        print(search.report)
        return
    _check_place(search, arguments.round, arguments.place)
    attempt(search, arguments.round, arguments.place, execution)
    print(search.scores(arguments.round, arguments.place))


def _check_place(search: Search, rung: int, place: int) -> None:
    """Refuses a round or a place that a search has not.

    Raises:
        UserError: It has not.
    """
    rungs: Sequence[tuple[float, int]] = search.rungs
    if not 0 <= rung < len(rungs) or not 0 <= place < rungs[rung][1]:
        counts = ", ".join(str(count) for _, count in rungs) or "none: nothing is trained"
        raise UserError(
            f"--round {rung} --place {place}: there is no such candidate; the rounds of {search.run.method} "
            f"have so many: {counts}"
        )
