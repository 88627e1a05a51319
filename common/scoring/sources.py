"""Where the labels of a run come from: a trained model, or the label maps of another system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from common.config.method_code import code_digest
from common.config.settings import plain
from common.datasets.split import Sample
from common.errors import Diverged
from common.images.foreign_predictions import PredictionReader
from common.prediction.predictor import Predictor, labels_of
from common.runs.jobs import ReadRun, Run, TrainedRun
from common.runs.records import PredictionsSource, TrainedModelFacts


class Prediction(NamedTuple):
    """What is predicted for one image.

    Attributes:
        labels: uint8 `[H, W]` in 0..K−1, on the CPU.
        probabilities: `[K, H, W]` on any device; None for labels without.
        diagnostics: What the method says about its result.
    """

    labels: Tensor
    probabilities: Tensor | None
    diagnostics: dict[str, float]


class SourceFacts(TypedDict, total=False):
    """Where predictions come from: the fields of `runs.records.Metrics` of these names.

    A trained model has all but the last, predictions that were read the last alone.
    """

    trained_as: str
    trained: TrainedModelFacts
    method_module: str
    method_code: str
    method_options: dict[str, Any]
    model_options: dict[str, Any]
    predictions: PredictionsSource


class Source(ABC):
    """Gives predictions, and says where they come from."""

    @abstractmethod
    def predict(self, split: str, name: str, sample: Sample) -> Prediction:
        """What is predicted for an image of a split.

        Raises:
            UserError: There is no prediction, or the method cannot work with such an image.
        """

    @abstractmethod
    def facts(self) -> SourceFacts:
        """Where the predictions come from, for the record of their scores."""


class TrainedSource(Source):
    """The predictions of a trained model."""

    def __init__(self, run: TrainedRun, device: torch.device) -> None:
        """
        Args:
            run: The run.
            device: What to compute on.

        Raises:
            UserError: The trained model is missing or damaged.
        """
        self._run = run
        self._predictor = Predictor.of(run, device)

    def predict(self, split: str, name: str, sample: Sample) -> Prediction:
        probabilities = self._predictor(sample.image.unsqueeze(0).to(self._predictor.device))
        if not probabilities.sum().isfinite():
            raise Diverged(
                f"the probabilities of {name} ({split}) are not finite: the model has diverged, or "
                f"methods/{self._run.entry.module}.py cannot work with this image"
            )
        diagnostics = self._predictor.model.hooks.diagnostics()
        return Prediction(labels_of(probabilities)[0].cpu(), probabilities[0], diagnostics)

    def facts(self) -> SourceFacts:
        training, entry = self._run.training, self._run.entry
        return {
            "trained_as": training.method,
            "trained": self._predictor.facts,
            "method_module": entry.module,
            "method_code": code_digest(entry.module),
            "method_options": entry.options,
            "model_options": plain(training.model_options),
        }


class ReadSource(Source):
    """The predictions of another system, read from a folder."""

    def __init__(self, run: ReadRun) -> None:
        """
        Args:
            run: The run.
        """
        self._run = run
        dataset = run.data.dataset
        self._reader = PredictionReader(
            run.predictions, dataset.class_names, dataset.colours, dataset.official_colours
        )

    def predict(self, split: str, name: str, sample: Sample) -> Prediction:
        height, width = sample.labels.shape
        labels = self._reader.read(split, name, (height, width))
        return Prediction(labels, None, {})

    def facts(self) -> SourceFacts:
        predictions = self._run.predictions
        parts = self._run.data.dataset.parts(self._run.evaluation.split)
        return {"predictions": PredictionsSource(predictions.folder, predictions.content_sha256(parts))}


def source(run: Run, device: torch.device) -> Source:
    """Where the labels of a run come from.

    Args:
        run: The run.
        device: What to compute on, if a model does it.

    Raises:
        UserError: The trained model is missing or damaged.
    """
    if isinstance(run, TrainedRun):
        return TrainedSource(run, device)
    if isinstance(run, ReadRun):
        return ReadSource(run)
    raise TypeError(f"{type(run).__name__} is no run that can be scored")
