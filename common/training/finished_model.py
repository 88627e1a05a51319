"""The finished model of a training, which is kept under two names.

Snakemake deletes the output of a job that it did not see the end of, be it complete or not. The second name
lies with the state of the training, where it is no declared output.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import Damaged, UnreadableRecord
from common.failures import renamed
from common.files import replacing
from common.runs.jobs import Training
from common.runs.records import TrainedModel


def keep(training: Training, model: TrainedModel) -> None:
    """Writes a finished model under both of its names.

    Raises:
        DiskFull: There is no room for it.
    """
    model.write(training.second_name)
    _link(training.second_name, training.file)


def restore(training: Training) -> bool:
    """Brings back a finished model that was deleted, and says so; a damaged one is renamed.

    Returns:
        Whether there was one.

    Raises:
        Unreachable: It cannot be read now, which is not its fault.
    """
    try:
        model = TrainedModel.read(training.second_name, training)
    except Damaged as error:
        print(f"structseg: {renamed(error, 'the model is trained again')}")
        return False
    except UnreadableRecord:  # there is none
        return False
    _link(training.second_name, training.file)
    print(
        f"structseg: {training.file} was deleted and is brought back as it was trained before "
        f"({model.provenance.written}); nothing was trained: {again(training)}"
    )
    return True


def again(training: Training) -> str:
    """How to train a model again on purpose."""
    return f"to train it again, delete the folder {training.folder}"


def _link(path: Path, name: Path) -> None:
    """Gives a file another name, or a copy where the file system has no hard links."""
    try:
        os.link(path, name)
    except OSError:
        with replacing(name, "wb") as file:
            file.write(path.read_bytes())
