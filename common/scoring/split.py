"""Scoring of a whole split, image by image, at the images' original size.

Images are read by other processes, predicted in batches by this one, and counted by threads beside it. No
result depends on how many there are of each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.datasets.base import panel_indices
from common.datasets.loading import batches, samples
from common.datasets.split import Sample, Split
from common.files import replacing
from common.images.label_maps import LabelMaps
from common.scoring.controls import Labelling
from common.scoring.counts import ImageCounts, SplitCounts, image_counts, image_names
from common.scoring.sources import Prediction, Source
from common.scoring.tasks import Tasks


class Workers(NamedTuple):
    """How many work beside this process and thread; no result depends on it.

    Attributes:
        readers: Processes that read images.
        counters: Threads that count.
    """

    readers: int
    counters: int


def workers(device: torch.device, readers: int | None = None) -> Workers:
    """Those that the threads of this process allow.

    Args:
        device: What predicts: a CPU does that with all threads.
        readers: So many are wanted; None is as many as help.
    """
    spare = torch.get_num_threads() - 1
    if readers is None:
        readers = spare if device.type == "cuda" else min(1, spare)
    return Workers(readers, min(spare, 1 + spare // 4))


@dataclass(frozen=True)
class ScoredSplit:
    """What scoring leaves of a split.

    Attributes:
        counts: Of every image.
        panel: The predicted label maps `[H, W]` of the images that the picture panels show, in order.
        label_maps: Those of as many images as there is room for.
        diagnostics: What the method says about its results: means over the images of which it says it.
    """

    counts: SplitCounts
    panel: list[NDArray[np.uint8]]
    label_maps: LabelMaps
    diagnostics: dict[str, float]

    def write_panel(self, path: Path) -> None:
        """Writes the label maps of the picture panel, `labels_<place>`."""
        arrays: dict[str, Any] = {f"labels_{place}": labels for place, labels in enumerate(self.panel)}
        with replacing(path, "wb") as file:
            np.savez_compressed(file, **arrays)


class _ScoredImage(NamedTuple):
    """An image of the split, its counts, and its labels `[H, W]` if they are shown."""

    place: int
    counts: ImageCounts
    diagnostics: dict[str, float]
    shown: NDArray[np.uint8] | None


class _Scorer:
    """Scores single images; any thread may do that."""

    def __init__(self, split: Split, label_maps: LabelMaps) -> None:
        self._split, self._label_maps = split, label_maps
        self._num_classes = len(split.dataset.class_names)
        self._shown: Collection[int] = panel_indices(split.first_part)

    def __call__(self, index: int, truth: Tensor, predicted: Callable[[], Prediction]) -> _ScoredImage:
        """Scores what was predicted for the image with the labels `[H, W]`."""
        prediction = predicted()
        counts = image_counts(prediction.labels, truth, self._num_classes, prediction.evidence)
        labels = prediction.labels.numpy()
        self._label_maps.add("/".join(self._split.names[index]), labels)
        shown = labels.copy() if index in self._shown else None
        return _ScoredImage(index, counts, prediction.diagnostics, shown)


@torch.inference_mode()
def score(source: Source, split: Split, label_maps: LabelMaps, crew: Workers) -> ScoredSplit:
    """Scores what is predicted for every image of a split.

    Args:
        source: What predicts.
        split: The images.
        label_maps: Where to keep label maps.
        crew: Who helps.

    Raises:
        UserError: An image or its prediction is missing, or the method cannot work with it.
    """
    scorer = _Scorer(split, label_maps)
    with Tasks[_ScoredImage](crew.counters) as tasks:
        for batch in batches(samples(split, crew.readers), source.most):
            names = [split.names[index] for index in batch.indices]
            for index, labels, predicted in zip(batch.indices, batch.labels, source.predict(names, batch)):
                tasks.add(partial(scorer, index, labels, predicted))
        images = sorted(tasks.results(), key=lambda image: image.place)
    diagnostics: dict[str, list[float]] = {}
    for image in images:
        for key, value in image.diagnostics.items():
            diagnostics.setdefault(key, []).append(value)
    return ScoredSplit(
        SplitCounts.of(image_names(split), [image.counts for image in images]),
        [image.shown for image in images if image.shown is not None],
        label_maps,
        {key: sum(values) / len(values) for key, values in diagnostics.items()},
    )


def score_labellings(labellings: dict[str, Labelling], split: Split, crew: Workers) -> dict[str, SplitCounts]:
    """Of every labelling, by its name, the counts of all images of a split.

    Args:
        labellings: The labellings, which any thread may call.
        split: The images.
        crew: Who helps.

    Raises:
        UserError: An image is missing.
    """
    num_classes = len(split.dataset.class_names)

    def counted(sample: Sample) -> list[ImageCounts]:
        labels = sample.labels
        return [image_counts(labelling(labels), labels, num_classes) for labelling in labellings.values()]

    with Tasks[list[ImageCounts]](crew.counters) as tasks:
        for sample in samples(split, crew.readers):
            tasks.add(partial(counted, sample))
        by_labelling = zip(*tasks.results())
        names = image_names(split)
        return {name: SplitCounts.of(names, counts) for name, counts in zip(labellings, by_labelling)}
