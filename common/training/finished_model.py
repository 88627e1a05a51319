"""The finished model of a training, which is kept under two names.

Snakemake deletes the output of a job that it did not see the end of, be it complete or not. The second name
lies with the state of the training, where it is no declared output.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from common.files import replacing
from common.runs.jobs import Training
from common.runs.records import TrainedModel


def keep(training: Training, model: TrainedModel) -> None:
    """Writes a finished model under both of its names.

    Raises:
        DiskFull: There is no room for it.
    """
    model.write(_second_name(training))
    _link(_second_name(training), training.file)


def restore(training: Training) -> bool:
    """Brings back a finished model that was deleted; a damaged one is removed.

    Returns:
        Whether there was one.

    Raises:
        OSError: It cannot be read now, which is not its fault.
    """
    finished = _second_name(training)
    try:
        torch.load(finished, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return False
    except (OSError, MemoryError):  # not the file's fault
        raise
    except Exception:  # a damaged file fails in many ways
        finished.unlink()
        return False
    _link(finished, training.file)
    return True


def _second_name(training: Training) -> Path:
    """Where a finished model lies besides its declared place."""
    return training.state / "finished.pt"


def _link(path: Path, name: Path) -> None:
    """Gives a file another name, or a copy where the file system has no hard links."""
    try:
        os.link(path, name)
    except OSError:
        with replacing(name, "wb") as file:
            file.write(path.read_bytes())
