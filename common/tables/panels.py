"""Pictures of results: images, their truth and the labels of several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.datasets.base import Dataset
from common.errors import Damaged
from common.files import replacing
from common.images.legend import add_legend, shortened
from common.images.palette import coloured
from common.integrity import StoredFile, read_arrays


def draw_panel(
    path: Path,
    dataset: Dataset,
    source: Path,
    stored: StoredFile | None,
    split: str,
    columns: Mapping[str, Sequence[NDArray[np.uint8]]],
) -> None:
    """Draws images, their truth and the labels of several methods in the dataset's colours.

    Args:
        path: The PNG to write.
        dataset: Gives names and colours of the classes.
        source: What the prepare stage kept: images and labels of a few images per split.
        stored: What the manifest says of that.
        split: The split that was scored.
        columns: Label maps `[H, W]` per method, in the order of the images.

    Raises:
        UserError: What the prepare stage kept is damaged.
    """
    remedy = "delete it and run the prepare stage again"
    arrays = read_arrays(source, remedy, stored)
    rows = min(map(len, columns.values()))
    lacking = [f"{split}_labels_{row}" for row in range(rows) if f"{split}_labels_{row}" not in arrays]
    if lacking or not rows:
        raise Damaged(source, f"lacks {', '.join(lacking) or 'images'}", remedy)
    pairs = [(arrays[f"{split}_image_{row}"], arrays[f"{split}_labels_{row}"]) for row in range(rows)]
    titles = ["image", "truth", *shortened([*columns])]
    h, w = pairs[0][1].shape
    width = 2.0
    height = rows * width * h / w + 0.9
    figure = Figure(figsize=(width * len(titles), height), layout="compressed")
    grid = figure.subplots(rows, len(titles), squeeze=False)
    for row, (image, labels) in enumerate(pairs):
        pictures = [image, coloured(labels, dataset.colours)]
        pictures += [coloured(maps[row], dataset.colours) for maps in columns.values()]
        for axes, picture, title in zip(grid[row], pictures, titles):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=9)
    add_legend(
        figure,
        dataset.class_names,
        dataset.colours,
        loc="outside lower center",
        ncols=min(len(dataset.class_names), 11),
        fontsize=7,
    )
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
