"""One model, trained by one job: where it is trained, by how many processes, and who else must wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.config.checks import check_share
from common.config.entries import Config
from common.config.settings import Execution
from common.failures import recording_failure
from common.files import locked, write_json
from common.installation import MODULE
from common.machine import devices, job_locks
from common.runs import jobs
from common.runs.jobs import Training
from common.training import finished_model, processes
from common.training.group import ProcessGroup
from common.training.loop import train_model


def train(training: Training, execution: Execution, config: Config | None = None) -> None:
    """Trains the model of `training` and writes it; a finished one is left as it is.

    A second name of the finished model lies in `state/`: Snakemake deletes the output of a job that it
    did not see the end of, be it complete or not. To train again, delete the folder. After SIGTERM or SIGINT
    it saves a checkpoint and exits with status 143.

    Args:
        training: What is trained.
        execution: How, and on how many GPUs.
        config: The complete configuration, for the processes that train on several GPUs.

    Raises:
        UserError: The data or weights are missing, another process trains this model, the loss is not
            finite any more, the GPU's memory is too small, or GPUs cannot share a batch equally.
    """
    about = _about(training)
    if processes.started():
        with processes.member(training.state, "train", *about) as group:
            train_model(training, execution, group)
        return
    if training.file.exists():
        print(
            f"structseg: {training.file} is there, and nothing was trained: {finished_model.again(training)}"
        )
        return
    with locked(training.state / "lock"), recording_failure(training.error, "train", *about):
        if finished_model.restore(training):
            return
        gpus = devices.job_gpus()
        count = execution.gpus_per_run if gpus is None else gpus
        with (
            devices.lease(execution.device, count, execution.runs_per_gpu) as processors,
            job_locks.shared(processors[0].type),
        ):
            if len(processors) > 1:
                _train_together(training, processors, config)
                return
            if processors[0].type == "cuda":
                torch.cuda.set_device(processors[0])
            train_model(training, execution, ProcessGroup(0, 1, processors[0]))


def _train_together(training: Training, processors: Sequence[torch.device], config: Config | None) -> None:
    """Starts one process per device, which enters `train` by the stage of that name."""
    check_share(training.dataset, training.settings.batch_size, len(processors))
    if config is None:
        raise ValueError("processes that train together need the configuration")
    file = training.state / "config.json"  # as it is now, whatever becomes of the user's files
    write_json(file, config)
    arguments = ["-m", MODULE, "train", "--configfile", str(file)]
    for name in ("dataset", "model", "method", "seed", "member", "digest"):
        arguments += [f"--{name}", str(getattr(training, name))]
    arguments += ["--threads", str(max(1, torch.get_num_threads() // len(processors)))]
    processes.launch(arguments, processors, training.state)


def _about(training: Training) -> tuple[str, str]:
    """What is trained, and what takes less memory."""
    settings = training.settings
    crop = f" of {settings.crop[0]}×{settings.crop[1]}" if settings.crop else ""
    return (
        f"training {jobs.description(training)}, in batches of {settings.batch_size} images{crop} "
        f"with {len(training.data.dataset.class_names)} classes",
        "a smaller training.batch_size (with a larger accumulate) or training.crop, a larger "
        "model_options.output_stride, a smaller model",
    )
