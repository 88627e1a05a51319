"""Scoring of a whole split, image by image, at the images' original size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.datasets.base import panel_indices
from common.datasets.split import Split
from common.files import replacing
from common.images.label_maps import LabelMaps
from common.scoring.controls import Labelling
from common.scoring.counts import ImageCounts, SplitCounts, image_counts, image_names
from common.scoring.sources import Source


@dataclass(frozen=True)
class ScoredSplit:
    """What scoring leaves of a split.

    Attributes:
        counts: Of every image.
        panel: The predicted label maps `[H, W]` of the images that the picture panels show, in order.
        label_maps: Those of as many images as there is room for.
        diagnostics: Means over images of what the method says about its results.
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


@torch.inference_mode()
def score(source: Source, split: Split, label_maps: LabelMaps) -> ScoredSplit:
    """Scores what is predicted for every image of a split.

    Args:
        source: What predicts.
        split: The images.
        label_maps: Where to keep label maps.

    Raises:
        UserError: An image or its prediction is missing, or the method cannot work with it.
    """
    num_classes = len(split.dataset.class_names)
    images, panel = [], []
    sums: dict[str, float] = {}
    shown = panel_indices(split.first_part)
    for index, (part, name) in enumerate(split.names):
        sample = split[index]
        prediction = source.predict(part, name, sample)
        labels = prediction.labels
        images.append(image_counts(labels, sample.labels, num_classes, prediction.probabilities))
        if index in shown:
            panel.append(labels.numpy())
        label_maps.add(f"{part}/{name}", labels.numpy())
        for key, value in prediction.diagnostics.items():
            sums[key] = sums.get(key, 0.0) + value
    diagnostics = {key: value / len(split) for key, value in sums.items()}
    return ScoredSplit(SplitCounts.of(image_names(split), images), panel, label_maps, diagnostics)


def score_labellings(labellings: dict[str, Labelling], split: Split) -> dict[str, SplitCounts]:
    """Of every labelling, by its name, the counts of all images of a split."""
    num_classes = len(split.dataset.class_names)
    names = image_names(split)
    images: dict[str, list[ImageCounts]] = {name: [] for name in labellings}
    for index in range(len(split)):
        labels = split[index].labels
        for name, labelling in labellings.items():
            images[name].append(image_counts(labelling(labels), labels, num_classes))
    return {name: SplitCounts.of(names, counts) for name, counts in images.items()}
