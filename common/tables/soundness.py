"""Whether all files of results are as they were written, and belong together; none is changed."""

from __future__ import annotations

from os.path import lexists
from pathlib import Path

from common.errors import UserError
from common.runs.jobs import Control, Preparation, Run, TrainedRun, Training
from common.runs.plan import Benchmark
from common.runs.records import ControlMetrics, Metrics, TrainedModel, read_tensors
from common.runs.soundness import noting, quick, written_with
from common.scoring.counts import REMEDY as EVALUATE
from common.scoring.stored_scores import computed, edited_sentence

PREPARE = "delete it and run the prepare stage again"


def thorough(benchmark: Benchmark) -> list[str]:
    """What is wrong with any file of the benchmark, in sentences, each once."""
    faults: list[str] = []
    for data in {group.data.path: group.data for group in benchmark.groups}.values():
        _check_data(data, faults)
    trainings = {run.training.file: run.training for run in benchmark.runs if isinstance(run, TrainedRun)}
    states = {file: _state(training, faults) for file, training in trainings.items()}
    for run in benchmark.runs:
        faults += quick(run)
        _check_scores(run, states.get(run.training.file) if isinstance(run, TrainedRun) else None, faults)
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


def _state(training: Training, faults: list[str]) -> str | None:
    """The SHA-256 of the weights of a trained model, if it is there and sound; checkpoints are read, too."""
    for path in (training.state / "checkpoint.pt", training.state / "previous.pt"):
        if lexists(path):
            with noting(faults):
                read_tensors(path, "delete it; training goes on without it")
    if lexists(training.file):
        with noting(faults):
            return TrainedModel.read(training.file, training).state_sha256
    return None


def _check_scores(run: Run, state: str | None, faults: list[str]) -> None:
    """Adds what is wrong with what the files of a run contain, unless `quick` says it.

    Args:
        run: The run.
        state: The SHA-256 of the weights of its model, if that is there and sound.
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
    if state and metrics.trained and state != metrics.trained.state_sha256:
        faults.append(f"{run.metrics} is of other weights than {run.training.file}: evaluate again")  # type: ignore[attr-defined]


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
