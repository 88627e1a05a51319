"""A picture that says which class has which colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.patches import Patch

from common.files import replacing
from common.images.palette import Colour

matplotlib.use("Agg")


def draw_legend(path: Path, class_names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Draws which class has which colour, as a PNG."""
    shades = [(red / 255, green / 255, blue / 255) for red, green, blue in colours]
    patches = [Patch(color=shade, label=name) for name, shade in zip(class_names, shades)]
    figure = pyplot.figure(figsize=(2, 0.25 * len(patches)))
    figure.legend(handles=patches, loc="center", frameon=False)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
    pyplot.close(figure)
