"""The settings of a configuration, typed: what its sections hold once they are complete.

The schema (`workflow/schemas/config.schema.yaml`) describes every one of them and has the defaults; by the
time that these objects are made, everything is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

Settings = TypeVar("Settings")


def typed(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Complete and checked settings as an object of their class."""
    return msgspec.convert(values, kind)


def plain(settings: Any) -> dict[str, Any]:
    """Settings as a mapping, as they stand in JSON files."""
    return msgspec.to_builtins(settings)


@dataclass(frozen=True)
class HoldOut:
    """Images of the split that is trained on that are left out of training.

    Attributes:
        share: How many of them, about.
        seed: By which they are drawn.
    """

    share: float = 0.1
    seed: int = 1000


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained: the section `training` for one dataset and model."""

    split: str
    iterations: int
    batch_size: int
    accumulate: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    head_multiplier: float
    momentum: float
    weight_decay: float
    decay_all: bool
    schedule: Literal["poly", "cosine", "step"]
    power: float
    step_at: tuple[float, ...]
    step_factor: float
    warmup: int
    warmup_factor: float
    gradient_clip: float | None
    precision: Literal["float32", "bfloat16"]
    compile: bool
    crop: tuple[int, int] | None
    padding: Literal["mean", "black"]
    padding_place: Literal["around", "end"]
    interpolation: Literal["bilinear", "bicubic"]
    scale: tuple[float, float]
    scale_step: float | None
    flip: bool
    rotation: float
    jitter: float
    jitter_first: bool
    hold_out: HoldOut | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored and how images are seen: the section `evaluation` for one dataset and model."""

    split: str
    scales: tuple[float, ...]
    flip: bool


@dataclass(frozen=True)
class Execution:
    """How things are run; results do not depend on it, but for rounding."""

    device: str
    tf32: bool
    gpus_per_run: int
    runs_per_gpu: int
    workers: int | None
    checkpoint_every: int
    log_every: int
    validate_every: int
    validate_images: int | None
    labels_mb: float
    measure: Literal["all", "first_seed", "none"]
    quiet_wait: float


@dataclass(frozen=True)
class TableSettings:
    """How results are put together."""

    baseline: str
    gallery: int
    report_mb: float


@dataclass(frozen=True)
class TuningSettings:
    """What searches for the settings of entries try.

    Attributes:
        split: Which images candidates are scored on, if none are held out.
        images: At most so many of them; None is all.
        candidates: How many are tried of an entry.
        rungs: In rounds of trainings, the shares of the iterations of a whole one.
        hold_out: The share of the images that are trained on that candidates are scored on instead.
        seed: Of the trainings, of the sample of candidates and of the images that are held out.
        methods: Values to try, by the names of entries and of their options; None is nothing.
    """

    split: str
    images: int | None
    candidates: int
    rungs: list[float]
    hold_out: float | None
    seed: int
    methods: dict[str, dict[str, list[Any]] | None]


@dataclass(frozen=True)
class DownloadSource:
    """Where else a file is to be had, such as from a mirror, or what else it is to be.

    Attributes:
        address: Its address; None is the official one.
        sha256: Its digest; None checks nothing, `msgspec.UNSET` is the published one.
    """

    address: str | None = None
    sha256: str | msgspec.UnsetType | None = msgspec.UNSET
