"""Whether the records of a run, and the sizes of its other files, are as they were written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from os.path import lexists
from pathlib import Path

from common.errors import Damaged, UserError
from common.integrity import StoredFile
from common.runs.jobs import Run, TrainedRun
from common.runs.records.cost import Cost
from common.runs.records.scores import REMEDY as EVALUATE
from common.runs.records.scores import Metrics
from common.runs.records.training import REMEDY as TRAIN

NAMED = 3
"""How many models that are gone are named."""


def quick(run: Run) -> list[str]:
    """What is wrong with the records of a run and with the sizes of its files, in sentences."""
    faults: list[str] = []
    facts = None
    if lexists(run.metrics):
        with noting(faults):
            metrics = Metrics.read(run)
            facts = metrics.trained
            for path, stored in written_with(run, metrics.files):
                with noting(faults):
                    stored.check_size(path, EVALUATE)
    if isinstance(run, TrainedRun) and lexists(run.cost):
        with noting(faults):
            cost = Cost.read(run)
            if facts and (cost.state_sha256, cost.members_sha256) != _states(metrics):
                faults.append(
                    f"{run.cost} and metrics.json are of two models: delete {run.folder} and run again"
                )
    if isinstance(run, TrainedRun) and facts:
        for member, model in zip(run.members, (facts, *metrics.members)):
            if lexists(member.file):
                with noting(faults):
                    _check_model_size(member.file, model.state_bytes)
    return faults


def _states(metrics: Metrics) -> tuple[str | None, list[str]]:
    """The SHA-256 of the weights that were scored: of the model, and of further members of an ensemble."""
    first = metrics.trained.state_sha256 if metrics.trained else None
    return first, [model.state_sha256 for model in metrics.members]


def lost_models(runs: Iterable[Run]) -> Iterator[str]:
    """Says which trained models are gone that results were made with, and what becomes of it."""
    lost = {
        member.folder: None
        for run in runs
        if isinstance(run, TrainedRun) and run.metrics.exists()
        for member in run.members
        if member.lost
    }
    if lost:
        named = ", ".join(map(str, [*lost][:NAMED])) + (", …" if len(lost) > NAMED else "")
        many = len(lost) > 1
        yield (
            f"{len(lost)} trained {'models are' if many else 'model is'} gone that results were made with "
            f"({named}): {'they are' if many else 'it is'} trained again, and what was made with "
            f"{'them' if many else 'it'} is scored and measured again; `snakemake tables` and "
            "`snakemake report` need no models"
        )


def written_with(run: Run, files: Mapping[str, StoredFile]) -> Iterator[tuple[Path, StoredFile]]:
    """The files of a run that its record tells of, and what it tells."""
    for path in (run.per_image, run.panel, run.labels):
        if path.name in files:
            yield path, files[path.name]


def _check_model_size(path: Path, least: int) -> None:
    """Checks that the file of a model is not smaller than its weights.

    Raises:
        Damaged: It is, or it is no file.
    """
    if not path.is_file() or path.stat().st_size < least:
        raise Damaged(path, f"is smaller than the {least} bytes of its weights", TRAIN)


@contextlib.contextmanager
def noting(faults: list[str]) -> Iterator[None]:
    """Adds the sentence that the block raises, if it does."""
    try:
        yield
    except UserError as error:
        faults.append(str(error))
