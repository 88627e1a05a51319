"""Whether all files of results are as they were written, and belong together; none is changed."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import lexists
from pathlib import Path

from common.errors import UserError
from common.runs.benchmark import Benchmark
from common.runs.jobs import Control, Preparation, Run, TrainedRun, Training
from common.runs.records import ControlMetrics, Metrics, TrainedModel, TrainedModelFacts, read_tensors
from common.runs.soundness import noting, quick, written_with
from common.scoring.counts import REMEDY as EVALUATE
from common.scoring.stored_scores import computed, edited_sentence

PREPARE = "delete it and run the prepare stage again"


def thorough(benchmark: Benchmark) -> list[str]:
    """What is wrong with any file of the benchmark, in sentences, each once."""
    faults: list[str] = []
    for data in {group.data.path: group.data for group in benchmark.groups}.values():
        _check_data(data, faults)
    runs = [run for run in benchmark.runs if isinstance(run, TrainedRun)]
    trainings = {training.file: training for run in runs for training in run.trainings}
    models = {file: _model(training, faults) for file, training in trainings.items()}
    states = {file: facts.state_sha256 for file, facts in models.items() if facts}
    for file, training in trainings.items():
        _check_start(training, models[file], states, faults)
    for run in benchmark.runs:
        faults += quick(run)
        _check_scores(run, states, faults)
    for control in (control for group in benchmark.groups for control in group.controls):
        _check_control(control, faults)
    return [*dict.fromkeys(faults)]


def _check_data(data: Preparation, faults: list[str]) -> None:
    """Adds what is wrong with the manifest of a dataset and the pictures that were kept with it."""
    if lexists(data.path):
        with noting(faults):
            panel = data.manifest().panel
            if panel:
                panel.check(data.panel, PREPARE)


def _model(training: Training, faults: list[str]) -> TrainedModelFacts | None:
    """Where a trained model comes from, if it is there and sound; checkpoints are read, too."""
    for path in (training.state / "checkpoint.pt", training.state / "previous.pt"):
        if lexists(path):
            with noting(faults):
                read_tensors(path, "delete it; training goes on without it")
    if lexists(training.file):
        with noting(faults):
            return TrainedModel.read(training.file, training).facts
    return None


def _check_start(
    training: Training, facts: TrainedModelFacts | None, states: Mapping[Path, str], faults: list[str]
) -> None:
    """Adds that a training started from another model than lies in that one's place, if it did."""
    if facts and facts.start and training.start:
        file = training.start.file
        if states.get(file, facts.start.state_sha256) != facts.start.state_sha256:
            faults.append(f"{training.file} was trained from other weights than {file} has: train it again")


def _check_scores(run: Run, states: Mapping[Path, str], faults: list[str]) -> None:
    """Adds what is wrong with what the files of a run contain, unless `quick` says it.

    Args:
        run: The run.
        states: The SHA-256 of the weights of models that are there and sound, by their files.
        faults: What is added to.
    """
    try:
        metrics = Metrics.read(run)
    except UserError:
        return
    with noting(faults):
        _, edited = computed(metrics, run.folder, run.data.dataset.class_names)
        _note_edited(run.metrics, edited, faults)
    for path, stored in written_with(run, metrics.files):
        with noting(faults):
            stored.check(path, EVALUATE)
    members = run.members if isinstance(run, TrainedRun) else ()
    for member, facts in zip(members, (metrics.trained, *metrics.members)):
        if facts and states.get(member.file, facts.state_sha256) != facts.state_sha256:
            faults.append(f"{run.metrics} is of other weights than {member.file}: evaluate again")


def _check_control(control: Control, faults: list[str]) -> None:
    """Adds what is wrong with the files of a control."""
    if lexists(control.metrics):
        with noting(faults):
            names = control.data.dataset.class_names
            _, edited = computed(ControlMetrics.read(control), control.folder, names)
            _note_edited(control.metrics, edited, faults)


def _note_edited(path: Path, edited: list[str], faults: list[str]) -> None:
    """Adds that a record says something else than its counts give, if it does."""
    if edited:
        faults.append(f"{edited_sentence(path, edited)}: {EVALUATE}")
