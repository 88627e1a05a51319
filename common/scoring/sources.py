"""Where the labels of a run come from: a trained model, or the label maps of another system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from common.config.method_code import code_digest
from common.config.settings import plain
from common.datasets.loading import Batch
from common.images.foreign_predictions import PredictionReader
from common.networks.structured import refined
from common.prediction.predictor import Pipeline, Predictor, check_decided, check_sums
from common.runs.jobs import ReadRun, Run, TrainedRun
from common.runs.records import PredictionsSource, TrainedModelFacts
from common.scoring.evidence import Evidence
from methods.base import Method

MOST = 16
PIXELS = 2**21
"""So many images, and pixels of several images, are predicted together at most: memory grows with them."""


class Prediction(NamedTuple):
    """What is predicted for one image.

    Attributes:
        labels: uint8 `[H, W]` in 0..K−1, on the CPU.
        evidence: What the probabilities say, on the CPU; None for labels without. If a rule has decided the
            labels, they are those that it was given, and their labels others.
        diagnostics: What the method says about its result.
    """

    labels: Tensor
    evidence: Evidence | None
    diagnostics: dict[str, float]


Later = Callable[[], Prediction]
"""Gives a prediction when it is there; any thread may ask."""


class SourceFacts(TypedDict, total=False):
    """Where predictions come from: the fields of `runs.records.Metrics` of these names.

    A trained model has all but the last, predictions that were read the last alone.
    """

    trained_as: str
    trained: TrainedModelFacts
    members: list[TrainedModelFacts]
    method_module: str
    method_code: str
    method_options: dict[str, Any]
    model_options: dict[str, Any]
    decides: bool
    predictions: PredictionsSource


class Source(ABC):
    """Gives predictions, and says where they come from."""

    def most(self, size: torch.Size) -> int:
        """How many images of a size H, W are best predicted together."""
        return 1

    @abstractmethod
    def predict(self, names: Sequence[tuple[str, str]], batch: Batch) -> Sequence[Later]:
        """What is predicted for every image of a batch.

        Args:
            names: The split and the name of every image.
            batch: The images.

        Raises:
            UserError: There is no prediction, or the method cannot work with such an image; or the same is
                raised when a prediction is asked for.
        """

    @abstractmethod
    def facts(self) -> SourceFacts:
        """Where the predictions come from, for the record of their scores."""


class _Computed(NamedTuple):
    """What is computed for an image, the type of its probabilities, and its labels if a rule decides them."""

    evidence: Evidence
    diagnostics: dict[str, float]
    dtype: torch.dtype
    decided: Tensor | None = None

    def on_cpu(self) -> _Computed:
        """The same on the CPU, where it is when the GPU has done all that it was given."""
        evidence = Evidence(*(x.to("cpu", non_blocking=True) for x in self.evidence))
        decided = None if self.decided is None else self.decided.to("cpu", non_blocking=True)
        return self._replace(evidence=evidence, decided=decided)


class ComputedSource(Source):
    """The predictions that network and methods compute, whether they are trained or still in training."""

    def __init__(self, pipeline: Pipeline) -> None:
        """
        Args:
            pipeline: Network and methods, in evaluation mode.
        """
        self._pipeline = pipeline
        self._on_gpu = pipeline.device.type == "cuda"
        self._most = MOST
        self._decides = False

    def most(self, size: torch.Size) -> int:
        if self._on_gpu:
            return max(1, min(self._most, PIXELS // size.numel()))
        # A network is as fast with single images, which leave more in the cache, but a method may
        # refine several at a time.
        refines = type(self._pipeline.method).refine is not Method.refine
        return max(1, min(torch.get_num_threads(), PIXELS // size.numel())) if refines else 1

    def predict(self, names: Sequence[tuple[str, str]], batch: Batch) -> Sequence[Later]:
        parts = self._parts(batch)
        ready = None
        if self._on_gpu:
            parts = [part.on_cpu() for part in parts]
            ready = torch.cuda.Event(blocking=True)
            ready.record()
        return [partial(self._finished, part, ready, *name) for part, name in zip(parts, names)]

    def _parts(self, batch: Batch) -> list[_Computed]:
        """What is computed for every image, of fewer at a time if there is no memory for all of them."""
        images, labels = (self._moved(array) for array in (batch.images, batch.labels))
        while True:
            together = min(self._most, len(images))
            try:
                pairs = zip(images.split(together), labels.split(together))
                return [part for pair in pairs for part in self._computed(*pair)]
            except torch.OutOfMemoryError:
                if together == 1:
                    raise
            self._most = together // 2
            torch.cuda.empty_cache()

    def _moved(self, array: Tensor) -> Tensor:
        """An array on the device, which is not waited for."""
        return array.pin_memory().to(self._pipeline.device, non_blocking=True) if self._on_gpu else array

    def _computed(self, images: Tensor, labels: Tensor) -> list[_Computed]:
        """What is computed for images `[N, 3, H, W]` whose true labels are `[N, H, W]`."""
        method, model = self._pipeline.method, self._pipeline.model
        unrefined, diagnostics = [], []
        for some in images.split(len(images) if self._on_gpu else 1):
            unrefined.append(self._pipeline.unrefined(some, method.refines))
            diagnostics += len(some) * [model.hooks.diagnostics()]
        together = torch.cat(unrefined) if len(unrefined) > 1 else unrefined[0]
        result = refined(method, images, together)
        evidence = map(Evidence.of, result.probabilities, labels)
        decided = len(images) * [None] if result.decided is None else [*result.decided]
        self._decides = result.decided is not None
        kind = result.probabilities.dtype
        return [_Computed(a, b, kind, c) for a, b, c in zip(evidence, diagnostics, decided)]

    def _finished(
        self, computed: _Computed, ready: torch.cuda.Event | None, split: str, name: str
    ) -> Prediction:
        """The prediction for an image, once the device is ready."""
        if ready:
            ready.synchronize()
        evidence = computed.evidence
        low, high = evidence.sums.tolist()
        place, method = f"{name} ({split})", self._pipeline.method
        check_sums(low, high, computed.dtype, place, method)
        if computed.decided is None:
            return Prediction(evidence.labels, evidence, computed.diagnostics)
        check_decided(computed.decided, place, method)
        return Prediction(computed.decided, evidence, computed.diagnostics)


class TrainedSource(ComputedSource):
    """The predictions of a trained model."""

    def __init__(self, run: TrainedRun, device: torch.device) -> None:
        """
        Args:
            run: The run.
            device: What to compute on.

        Raises:
            UserError: The trained model is missing or damaged.
        """
        predictor = Predictor.of(run, device)
        super().__init__(predictor)
        self._run, self._trained, self._others = run, predictor.facts, predictor.other_facts

    def facts(self) -> SourceFacts:
        training, entry = self._run.training, self._run.entry
        return {
            "trained_as": training.method,
            "trained": self._trained,
            "members": [*self._others],
            "method_module": entry.module,
            "method_code": code_digest(entry.module),
            "method_options": entry.options,
            "model_options": plain(training.model_options),
            "decides": self._decides,
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

    def predict(self, names: Sequence[tuple[str, str]], batch: Batch) -> Sequence[Later]:
        height, width = batch.labels.shape[1:]
        labels = [self._reader.read(*name, (height, width)) for name in names]
        return [partial(Prediction, of_image, None, {}) for of_image in labels]

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
