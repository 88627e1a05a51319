"""Stage `controls`: labellings that no model made, which bracket the runs of a dataset and model.

`majority` gives every pixel the commonest class of the training images. `ceiling` is the truth seen through
the network's output grid: the shares of the classes in every cell, upsampled as logits are. A model may do a
little better, as its logits need not be shares.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common import boundaries, metrics, runs, stages
from common import config as configuration
from common.config import Config
from common.datasets.loading import Split
from common.evaluate import image_counts, image_names, stacked
from common.files import read_json, replacing, write_json
from common.models import Network, upsample
from common.provenance import record
from methods.base import VOID

Labelling = Callable[[Tensor], Tensor]
"""From the true labels `[H, W]` of an image to those of a control."""


def evaluate(config: Config, dataset: str, model: str) -> None:
    """Writes the scores and counts of all controls of a dataset and model.

    Raises:
        UserError: The manifest or the data are missing.
    """
    found = runs.controls(config, dataset, model)
    with stages.recording_failure(found[0].error, "controls"):
        start = time.monotonic()
        manifest = read_json(found[0].manifest.path)
        source = configuration.dataset(config, dataset)
        settings = configuration.settings(config, "evaluation", dataset, model)
        split = Split(source, manifest, settings["split"])
        trained = configuration.settings(config, "training", dataset, model)["split"]
        labellings = {
            "majority": majority(manifest, source.parts(trained)),
            "ceiling": Ceiling(model, config["model_options"][model], len(source.class_names)),
        }
        counts = _score(labellings, split, len(source.class_names))
        runs.forget_tables(config)
        names = list(source.class_names)
        for control in found:
            mine = counts[control.name]
            _write(control.per_image, {"names": image_names(split), **mine})
            write_json(
                control.metrics,
                {
                    "dataset": dataset,
                    "model": model,
                    "control": control.name,
                    "digest": control.digest,
                    "split": settings["split"],
                    "images": len(split),
                    **metrics.scores(mine["confusion"].sum(axis=0), names),
                    **boundaries.scores(mine, names),
                    "content_sha256": manifest["content_sha256"],
                    "provenance": record("cpu"),
                    "wall_seconds": round(time.monotonic() - start, 3),
                },
            )


def majority(manifest: dict[str, Any], splits: Sequence[str]) -> Labelling:
    """The labelling with the commonest class of one or several splits."""
    pixels = np.array([list(manifest["splits"][part]["pixels"].values()) for part in splits])
    commonest = int(pixels.sum(axis=0).argmax())
    return lambda labels: torch.full_like(labels, commonest)


class Ceiling:
    """The truth seen through a network's output grid."""

    def __init__(self, model: str, options: dict[str, Any], num_classes: int) -> None:
        """
        Args:
            model: `<architecture>-<backbone>`.
            options: The model's options.
            num_classes: K.
        """
        self.network = Network(model, num_classes, options | {"weights": "none"}).eval()
        self.shapes = copy.deepcopy(self.network).to("meta")  # only its shapes are needed
        self.corners = options["align_corners"]
        self.num_classes = num_classes
        self.grids: dict[tuple[int, int], tuple[Tensor, torch.Size]] = {}

    @torch.inference_mode()
    def __call__(self, labels: Tensor) -> Tensor:
        """Labels `[H, W]` of the same size, from shares of the labelled pixels of each cell."""
        height, width = labels.shape
        padded, grid = self._grid(height, width)
        below, right = padded.shape[2] - height, padded.shape[3] - width
        labels = functional.pad(labels, (0, right, 0, below), value=VOID).long()
        one_hot = functional.one_hot(labels.clamp(max=self.num_classes), self.num_classes + 1)
        one_hot = one_hot.permute(2, 0, 1)[None].float()
        if self.corners:  # a cell lies at a multiple of the stride, in the middle of its pixels
            rows, columns = (side // cells for side, cells in zip(padded.shape[2:], grid[2:]))
            shifted = functional.pad(one_hot, (columns // 2, 0, rows // 2, 0))
            shares = functional.avg_pool2d(shifted, (rows, columns))[..., : grid[2], : grid[3]]
        else:
            shares = functional.adaptive_avg_pool2d(one_hot, grid[2:])
        shares = shares[:, :-1] / shares[:, :-1].sum(dim=1, keepdim=True).clamp(min=1e-6)
        return metrics.labels_of(upsample(shares, padded, (height, width), self.corners))[0]

    def _grid(self, height: int, width: int) -> tuple[Tensor, torch.Size]:
        """The network's input, without content, and the shape `[1, K, h, w]` of its output."""
        if (height, width) not in self.grids:
            padded = self.network.pad(torch.zeros(1, 3, height, width))
            try:
                output = self.shapes(padded.to("meta"))
            except RuntimeError:  # some networks look at numbers
                output = self.network(padded)
            self.grids[height, width] = padded, output.unary.shape
        return self.grids[height, width]


def _score(
    labellings: dict[str, Labelling], split: Split, num_classes: int
) -> dict[str, dict[str, np.ndarray]]:
    """Of every control the counts of all images, stacked by name."""
    counts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in labellings}
    for index in range(len(split)):
        labels = split[index].labels
        for name, labelling in labellings.items():
            counts[name].append(image_counts(labelling(labels), labels, num_classes))
    return {name: stacked(images) for name, images in counts.items()}


def _write(path: Any, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def _main() -> None:
    parsed = stages.arguments("Scores the controls of a dataset and model.", "dataset", "model")
    found = runs.controls(parsed.config, parsed.dataset, parsed.model)
    stages.check_digest(parsed.digest, found[0].digest)
    evaluate(parsed.config, parsed.dataset, parsed.model)
    print(found[0].folder.parent)


if __name__ == "__main__":
    stages.main(_main)
