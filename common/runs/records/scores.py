"""The scores of runs and controls, `metrics.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config.settings import EvaluationSettings
from common.files import Amount, Count, Fraction, read_record, write_record
from common.provenance import Provenance
from common.runs.jobs import Control, Run
from common.runs.records.owner import check_owner
from common.runs.records.training import TrainedModelFacts

REMEDY = "delete its folder and evaluate again"


@dataclass(frozen=True)
class Reliability:
    """Pixels, mean confidence and accuracy of every bin of confidence; None where a bin is empty."""

    pixels: list[Count]
    confidence: list[Fraction | None]
    accuracy: list[Fraction | None]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What metrics of runs and controls have in common.

    Fractions are in 0–1; those about boundaries are None where the split has none.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        digest: That of the folder.
        split: What was scored.
        images: How many images.
        miou: Mean over classes of intersection over union.
        pixel_accuracy: The share of labelled pixels that are right.
        iou: Per class; None where it does not occur.
        trimap_miou: mIoU within bands around the truth's boundaries, by their width in pixels.
        boundary_iou: IoU of bands along boundaries, mean over classes.
        boundary_f: F-score of contours, mean over images of the mean over classes.
        boundary_iou_per_class: Boundary IoU per class.
        boundary_f_per_class: Mean over images per class.
        content_sha256: Of the dataset that was scored.
        provenance: How the scores came to be.
        wall_seconds: How long it took.
    """

    dataset: str
    model: str
    digest: str
    split: str
    images: Count
    miou: Fraction
    pixel_accuracy: Fraction
    iou: dict[str, Fraction | None]
    trimap_miou: dict[str, Fraction | None]
    boundary_iou: Fraction | None
    boundary_f: Fraction | None
    boundary_iou_per_class: dict[str, Fraction | None]
    boundary_f_per_class: dict[str, Fraction | None]
    content_sha256: str
    provenance: Provenance
    wall_seconds: Amount

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)


@dataclass(frozen=True, kw_only=True)
class ControlMetrics(Scores):
    """`metrics.json` of a control.

    Attributes:
        control: Its name.
    """

    control: str

    @classmethod
    def read(cls, control: Control) -> ControlMetrics:
        """The scores of a control.

        Raises:
            UnreadableRecord: They are missing, damaged, or of another control.
        """
        record = read_record(control.metrics, cls, REMEDY)
        check_owner(control.metrics, record, control, ("dataset", "model", "digest"), REMEDY)
        return record


@dataclass(frozen=True)
class PredictionsSource:
    """Which predictions of another system were scored: their folder, and the SHA-256 of their content."""

    folder: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Metrics(Scores):
    """`metrics.json` of a run.

    Attributes:
        method: Name of the method entry.
        seed: The seed.
        evaluation: The settings of evaluation.
        trained_as: The entry that trained the model; None if predictions were read.
        trained: Where the model comes from; None if predictions were read.
        method_module: The module of the method; None if predictions were read.
        method_code: The digest of its code; None if predictions were read.
        method_options: Its options; None if predictions were read.
        model_options: The options of the model; None if predictions were read.
        predictions: The predictions that were read; None if a model was trained.
        ece: Expected calibration error; None for labels without probabilities.
        nll: Negative log-likelihood in nats per pixel; None for labels without probabilities.
        reliability: Confidence and accuracy by bins of confidence; None for labels without probabilities.
        diagnostics: Means over images of what the method says about its results.
        peak_memory: In bytes.
    """

    method: str
    seed: int
    evaluation: EvaluationSettings
    trained_as: str | None = None
    trained: TrainedModelFacts | None = None
    method_module: str | None = None
    method_code: str | None = None
    method_options: dict[str, Any] | None = None
    model_options: dict[str, Any] | None = None
    predictions: PredictionsSource | None = None
    ece: Fraction | None = None
    nll: Amount | None = None
    reliability: Reliability | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    peak_memory: Count

    @classmethod
    def read(cls, run: Run) -> Metrics:
        """The scores of a run.

        Raises:
            UnreadableRecord: They are missing, damaged, or of another run.
        """
        record = cls.read_file(run.metrics)
        check_owner(run.metrics, record, run, ("dataset", "model", "method", "seed", "digest"), REMEDY)
        return record

    @classmethod
    def read_file(cls, path: Path) -> Metrics:
        """The scores in a file, whose run is not known.

        Raises:
            UnreadableRecord: It is missing or damaged.
        """
        return read_record(path, cls, REMEDY)
