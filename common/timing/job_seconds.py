"""How long a job takes, from what a step and an image cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common import phases
from common.datasets.split import Split
from common.machine import lock_files
from common.prediction.predictor import labels_of
from common.runs.records import JobTimes
from common.scoring.counts import image_counts
from common.timing.clock import LEAST_SECONDS, SECONDS, WARM_UP
from common.timing.inference import INFERENCES, LARGEST_BATCH
from common.timing.quiet import SAMPLE_SECONDS
from common.timing.training import TRAINING_STEPS

READY = 1.0
"""The seconds in which a measurement makes models ready and counts operations (digits, two CPU cores)."""

FORKED = 1.5
"""The seconds in which a forked job starts, loads and writes: two CPU cores took 1.0 for digits, and for
CamVid 1.3 to train, 1.7 to measure and 2.8 to score."""

COUNTED = 8
"""So many images are read and counted to see how long that takes."""


@dataclass(frozen=True)
class Besides:
    """What jobs take besides what they compute and besides waiting, in seconds: to start, to load, to write.

    Attributes:
        medians: Those of the jobs that have run, by their stage.
        otherwise: What is taken for stages of which none has.
    """

    medians: Mapping[str, float]
    otherwise: float

    @classmethod
    def of(cls, times: Sequence[JobTimes], started: float) -> Besides:
        """From what jobs have recorded.

        Args:
            times: Where the time of jobs went, if some have run.
            started: How long this process took to start, as jobs of a scheduler do; others are forked.
        """
        parts = (phases.STARTING, phases.LOADING, phases.WRITING)
        by_stage: dict[str, list[float]] = {}
        for job in times:
            if job.devices:
                seconds = sum(job.seconds.get(phase, 0.0) for phase in parts)
                by_stage.setdefault(job.stage, []).append(seconds)
        medians = {stage: statistics.median(seconds) for stage, seconds in by_stage.items()}
        if medians:
            return cls(medians, statistics.median(medians.values()))
        return cls(medians, FORKED if lock_files.scheduler_job() is None else started)

    def seconds(self, stage: str) -> float:
        """Those of a job of a stage."""
        return self.medians.get(stage, self.otherwise)


def scoring_seconds(split: Split, image: float, device: torch.device) -> float:
    """How long it takes to score a split; reading and counting are timed on a few images.

    Other processes read and count: on a CPU in turns with what predicts, on a GPU the slower is waited for.

    Args:
        split: What is scored.
        image: The seconds in which an image is predicted.
        device: What predicts.
    """
    threads, beside = torch.get_num_threads(), _reading_and_counting(split)
    if device.type == "cuda":
        return len(split) * max(image, beside / max(1, threads - 1))
    return len(split) * (image + beside / threads)


def _reading_and_counting(split: Split) -> float:
    """The seconds that an image takes, in one process; there is more to be done for the first one."""
    classes = len(split.dataset.class_names)
    images = min(len(split), COUNTED + 1)
    seconds = []
    for index in range(images):
        start = time.perf_counter()
        labels = split[index].labels
        image_counts(labels_of(_certain(labels, classes))[0], labels, classes)
        seconds.append(time.perf_counter() - start)
    return statistics.mean(seconds[1:] or seconds)


def _certain(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Probabilities `[1, K, H, W]` of a labelling `[H, W]`."""
    classes_of_pixels = labels.long().clamp(max=classes - 1)
    return nn.functional.one_hot(classes_of_pixels, classes).permute(2, 0, 1)[None].float()


def measuring_seconds(image: float, step: float) -> float:
    """How long the measurement of a run takes on a quiet machine.

    Args:
        image: The seconds in which an image is predicted.
        step: Those of a training step.
    """
    inference = min(max(LEAST_SECONDS, INFERENCES * image), max(SECONDS, 3 * image))
    training = min(max(LEAST_SECONDS, TRAINING_STEPS * step), max(SECONDS, 3 * step))
    batches = min(SECONDS, 4 * 2 * LARGEST_BATCH["cpu"] * image)  # of 1, 2, 4, …, four times each
    return READY + SAMPLE_SECONDS + WARM_UP * (image + step) + inference + training + batches
