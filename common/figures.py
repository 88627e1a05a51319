"""Pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from common.datasets.base import Colour, Dataset, coloured
from common.files import replacing

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.patches import Patch


def draw_panel(
    path: Path,
    dataset: Dataset,
    source: Path,
    split: str,
    columns: dict[str, list[NDArray[np.uint8]]],
) -> None:
    """Draws images, their truth and the labels of several methods in the dataset's colours.

    Args:
        path: The PNG to write.
        dataset: Gives names and colours of the classes.
        source: What the prepare stage kept: images and labels of a few images per split.
        split: The split that was scored.
        columns: Label maps `[H, W]` per method, in the order of the images.
    """
    with np.load(source) as arrays:
        rows = len(next(iter(columns.values())))
        pairs = [(arrays[f"{split}_image_{row}"], arrays[f"{split}_labels_{row}"]) for row in range(rows)]
    titles = ["image", "truth", *columns]
    h, w = pairs[0][1].shape
    width = 2.0
    height = rows * width * h / w + 0.9
    figure, axes = pyplot.subplots(
        rows, len(titles), figsize=(width * len(titles), height), squeeze=False, layout="compressed"
    )
    for row, (image, labels) in enumerate(pairs):
        pictures = [image, coloured(labels, dataset.colours)]
        pictures += [coloured(found[row], dataset.colours) for found in columns.values()]
        for axis, picture, title in zip(axes[row], pictures, titles):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    patches = [
        Patch(color=np.array(colour) / 255, label=name)
        for name, colour in zip(dataset.class_names, dataset.colours)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 11), fontsize=7)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
    pyplot.close(figure)


def draw_legend(path: Path, class_names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Draws which class has which colour."""
    patches = [Patch(color=np.array(c) / 255, label=name) for name, c in zip(class_names, colours)]
    figure = pyplot.figure(figsize=(2, 0.25 * len(patches)))
    figure.legend(handles=patches, loc="center", frameon=False)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
    pyplot.close(figure)
