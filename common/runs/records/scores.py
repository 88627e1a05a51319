"""The scores of runs and controls, `metrics.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config.settings import EvaluationSettings
from common.errors import Damaged
from common.files import Amount, Count, Fraction, read_record, write_record
from common.integrity import StoredFile
from common.provenance import Provenance
from common.runs.jobs import Control, ReadRun, Run, TrainedRun
from common.runs.records.owner import check_data, check_owner
from common.runs.records.training import TrainedModelFacts

REMEDY = "delete its folder and evaluate again"


LATER = ("miou_i", "miou_c", "worst_quarter", "worst_class", "recall_by_size")
"""Scores that records have nothing of that are older than they."""


@dataclass(frozen=True)
class Reliability:
    """Pixels, mean confidence and accuracy of every bin of confidence; None where a bin is empty."""

    pixels: list[Count]
    confidence: list[Fraction | None]
    accuracy: list[Fraction | None]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What metrics of runs and controls have in common.

    Fractions are in 0–1; those about boundaries are None where the split has none, and those of `LATER` where
    nobody computed them.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        digest: That of the folder.
        recipe: The number of the recipe of scoring; 0 is what has none.
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
        miou_i: Mean over images of the mean IoU over the classes in the image's truth.
        miou_c: Mean over classes of the mean IoU over the images with the class in their truth.
        worst_quarter: `miou_i` of the quarter of the images in which that is lowest.
        worst_class: The lowest IoU of a class in the truth.
        recall_by_size: The share of pixels of small, medium and large objects that is right, mean over
            classes.
        content_sha256: Of the dataset that was scored.
        provenance: How the scores came to be.
        wall_seconds: How long it took.
        files: What was written with the record, by the names of the files.
    """

    dataset: str
    model: str
    digest: str
    recipe: Count = 0
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
    miou_i: Fraction | None = None
    miou_c: Fraction | None = None
    worst_quarter: Fraction | None = None
    worst_class: Fraction | None = None
    recall_by_size: dict[str, Fraction | None] = field(default_factory=dict)
    content_sha256: str
    provenance: Provenance
    wall_seconds: Amount
    files: dict[str, StoredFile]

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_record(path, self)


@dataclass(frozen=True, kw_only=True)
class ControlMetrics(Scores):
    """`metrics.json` of a control.

    Attributes:
        control: Its name.
        grid: How many times finer than the model's output grid the grid is that it sees, or `full`.
    """

    control: str
    grid: int | str = 1

    @classmethod
    def read(cls, control: Control) -> ControlMetrics:
        """The scores of a control.

        Raises:
            UserError: They are missing, damaged, of another control, or out of reach.
        """
        record = read_record(control.metrics, cls, REMEDY, edited=True)
        check_owner(control.metrics, record, control, ("dataset", "model", "digest", "split"), REMEDY)
        check_data(control.metrics, [record.content_sha256], control.data)
        if (record.control, record.grid) != (control.name, control.grid):
            reason = f"does not belong to its folder: its control is {record.control}, not {control.name}"
            raise Damaged(control.metrics, reason, REMEDY)
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
        members: Where the further models of an ensemble come from.
        method_module: The module of the method; None if predictions were read.
        method_code: The digest of its code; None if predictions were read.
        method_options: Its options; None if predictions were read.
        model_options: The options of the model; None if predictions were read.
        decides: Whether the method decides labels by a rule: ece, nll and reliability are those of the
            probabilities that it was given.
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
    members: list[TrainedModelFacts] = field(default_factory=list)
    method_module: str | None = None
    method_code: str | None = None
    method_options: dict[str, Any] | None = None
    model_options: dict[str, Any] | None = None
    decides: bool = False
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
            UserError: They are missing, damaged, of another run or model, or out of reach.
        """
        record = cls.read_file(run.metrics)
        keys = ("dataset", "model", "method", "seed", "digest", "evaluation")
        check_owner(run.metrics, record, run, keys, REMEDY)
        facts, source = record.trained, record.predictions
        check_data(run.metrics, [record.content_sha256, *([facts.content_sha256] if facts else [])], run.data)
        if isinstance(run, TrainedRun):
            digests = [model.digest for model in (facts, *record.members) if model]
            trained = (digests, record.trained_as)
            if trained != ([member.digest for member in run.members], run.training.method):
                raise Damaged(run.metrics, "does not belong to its folder: it is of another model", REMEDY)
        elif isinstance(run, ReadRun) and (facts is not None or source is None):
            raise Damaged(run.metrics, "does not belong to its folder: it is of no predictions", REMEDY)
        return record

    @classmethod
    def read_file(cls, path: Path) -> Metrics:
        """The scores in a file, whose run is not known; if it was edited, `scoring.stored_scores` says so.

        Raises:
            UserError: It is missing, damaged or out of reach.
        """
        return read_record(path, cls, REMEDY, edited=True)
