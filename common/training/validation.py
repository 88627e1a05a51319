"""Validation while a model is trained: how well it does by now. It changes nothing about the training.

What is scored is a copy of network and method, so that neither statistics of BatchNorm nor a compiled network
nor what the method remembers is touched; and all random states are put back. The way from images to scores
is that of the stage `evaluate`, at the images' original size and scale.
"""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.config.settings import Execution
from common.datasets.base import VALIDATION, panel_indices
from common.datasets.loading import Batch
from common.datasets.manifest import Manifest
from common.datasets.split import Split
from common.errors import UserError
from common.images.label_maps import LabelMaps
from common.images.palette import coloured
from common.networks.structured import StructuredNetwork
from common.prediction.predictor import Pipeline
from common.runs.jobs import Training
from common.runs.records import ValidationLine
from common.scoring import metrics
from common.scoring.candidates import spread
from common.scoring.sources import ComputedSource, Later, SourceFacts
from common.scoring.split import ScoredSplit, score, workers
from common.training.group import ProcessGroup

WIDEST = 480
"""Pixels that the pictures of images are wide at most: larger ones are thinned out."""


@dataclass(frozen=True)
class Validated:
    """How well a model does between two iterations.

    Attributes:
        line: For the log.
        pictures: By the names of images `[h, 3·w, 3]`: image, truth and prediction side by side; none in
            processes that do not lead.
    """

    line: ValidationLine
    pictures: dict[str, NDArray[np.uint8]]


class Validation:
    """Scores images of the split `VALIDATION`, which several processes share."""

    def __init__(
        self,
        training: Training,
        manifest: Manifest,
        execution: Execution,
        group: ProcessGroup,
        model: StructuredNetwork,
    ) -> None:
        """
        Args:
            training: What is trained.
            manifest: Of its dataset.
            execution: Says when to score, and how many images.
            group: The processes that train it together.
            model: Network and method, before anything has been computed with them.

        Raises:
            UserError: The dataset is not where it should be, or has other images than the manifest.
        """
        split = Split(training.data.dataset, manifest, VALIDATION)
        chosen = spread(len(split), execution.validate_images)
        self._images, self._share = len(chosen), split.some(chosen[group.rank :: group.size])
        self._names = list(training.data.dataset.class_names)
        self._every, self._iterations = execution.validate_every, training.settings.iterations
        self._group, self._crew = group, workers(group.device, execution.workers)
        self._model = copy.deepcopy(model).eval()

    def due(self, done: int) -> bool:
        """Whether to score after so many iterations."""
        return done % self._every == 0 or done == self._iterations

    def score(self, model: StructuredNetwork, done: int, cut: Callable[[], bool]) -> Validated | None:
        """How well a model does by now; None if scoring was cut short in one of the processes.

        Args:
            model: Network and method in training; they are only read.
            done: Iterations done.
            cut: Says whether this process is to cut it short.

        Raises:
            UserError: An image cannot be read, or the method cannot work with it; or nothing is labelled.
        """
        start = time.monotonic()
        try:
            scored, is_cut = self._scored(model, done, cut), False
        except _CutShort:
            scored, is_cut = None, True
        if self._group.any(is_cut):
            return None
        counts = self._counts(scored)
        seconds = round(time.monotonic() - start, 3)
        scores = metrics.scores(counts, self._names)
        line = ValidationLine(done, VALIDATION, self._images, **scores, seconds=seconds)
        return Validated(line, self._pictures(scored) if scored and self._group.leads else {})

    def _scored(self, model: StructuredNetwork, done: int, cut: Callable[[], bool]) -> ScoredSplit | None:
        """What scoring gives of the images that are this process's; None if none are."""
        if not len(self._share):
            return None
        with _random_states_kept(self._group.device):
            self._model.load_state_dict(model.state_dict())
            self._model.method.progress = done / self._iterations
            pipeline = Pipeline(self._model, self._model.method, self._group.device)
            no_maps = LabelMaps(0, self._share.dataset.colours)
            return score(_Interruptible(pipeline, cut), self._share, no_maps, self._crew)

    def _counts(self, scored: ScoredSplit | None) -> NDArray[np.int64]:
        """The confusion counts `[K, K]` of the images of all processes; this one has scored some or none."""
        k = len(self._names)
        own = scored.counts.total if scored else np.zeros((k, k), np.int64)
        total = self._group.total(torch.from_numpy(own)).numpy()
        if not total.any():
            raise UserError(
                f"execution.validate_images: no pixel of the {self._images} images of {VALIDATION} that are "
                "scored is labelled: score more of them, or set validate_every to 0"
            )
        return total

    def _pictures(self, scored: ScoredSplit) -> dict[str, NDArray[np.uint8]]:
        """Images, truth and prediction side by side, of a few images that are always the same."""
        pictures, colours = {}, self._share.dataset.colours
        for index, predicted in zip(panel_indices(self._share.first_part), scored.panel):
            image, labels = self._share[index]
            parts = [
                image.permute(1, 2, 0).numpy(),
                coloured(labels.numpy(), colours),
                coloured(predicted, colours),
            ]
            step = -(-labels.shape[1] // WIDEST)
            pictures[self._share.names[index][1]] = np.concatenate(
                [part[::step, ::step] for part in parts], axis=1
            )
        return pictures


class _CutShort(Exception):
    """Scoring is to be cut short."""


class _Interruptible(ComputedSource):
    """The predictions of a model in training, until they are cut short."""

    def __init__(self, pipeline: Pipeline, cut: Callable[[], bool]) -> None:
        super().__init__(pipeline)
        self._cut = cut

    def predict(self, names: Sequence[tuple[str, str]], batch: Batch) -> Sequence[Later]:
        if self._cut():
            raise _CutShort
        return super().predict(names, batch)

    def facts(self) -> SourceFacts:
        return {}  # no record tells of them


@contextlib.contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """A block after which all global random states are what they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
