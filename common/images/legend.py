"""Which class has which colour, in pictures, and how names stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.files import replacing
from common.images.palette import Colour

matplotlib.use("Agg")

LONGEST = 40
"""Characters of a name that pictures have room for."""

PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}
"""The setting of Matplotlib by which the dollars in a name are no mathematics."""


def shortened(names: Sequence[str]) -> list[str]:
    """Names as pictures show them: what is longer than there is room for is cut off."""
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]


def add_legend(figure: Figure, class_names: Sequence[str], colours: Sequence[Colour], **style: Any) -> None:
    """Adds a legend of all classes to a figure.

    Args:
        figure: The figure.
        class_names: One per class.
        colours: One per class.
        **style: What else Matplotlib's legend takes.
    """
    patches = [Patch(color=(red / 255, green / 255, blue / 255)) for red, green, blue in colours]
    with matplotlib.rc_context(PLAIN_TEXT):
        figure.legend(patches, shortened(class_names), **style)


def draw_legend(path: Path, class_names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Draws which class has which colour, as a PNG."""
    figure = pyplot.figure(figsize=(2, 0.25 * len(class_names)))
    add_legend(figure, class_names, colours, loc="center", frameon=False)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
    pyplot.close(figure)
