"""Pictures of step edges, and how far the edges of labels lie beside those of their image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

DARK, BRIGHT = 40, 210
MIDDLE = (DARK + BRIGHT) / 2
NEAR = 3
"""Within so many pixels of a label's edge that of the image is looked for."""


def stripes(height: int, width: int, first: int) -> tuple[Tensor, Tensor]:
    """An image uint8 `[3, H, W]` that shows its labels `[H, W]`: 0 and 1 by turns, in columns.

    Args:
        height: H.
        width: W.
        first: The column of the first edge; the others follow at distances of 17 pixels.
    """
    labels = ((torch.arange(width) - first).div(17, rounding_mode="floor") % 2).to(torch.uint8)
    labels = labels.expand(height, width).contiguous()
    return (DARK + (BRIGHT - DARK) * labels).expand(3, -1, -1).contiguous(), labels


def offsets(image: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """How far each edge of the labels lies right of the image's own, in pixels, for every row and edge.

    The image's edge is where its brightness, interpolated, passes the middle of its two shades. Edges near
    void or the margin are left out.

    Args:
        image: `[3, H, W]`.
        labels: 0, 1 or 255 for void, `[H, W]`.
    """
    shades, classes = image[0].numpy() - MIDDLE, labels.numpy()
    void = ndimage.maximum_filter(classes == 255, 2 * NEAR + 3, mode="constant", cval=True)
    row, column = np.nonzero((classes[:, :-1] != classes[:, 1:]) & ~void[:, :-1])
    shade = shades[row[:, None], column[:, None] + np.arange(-NEAR, NEAR + 2)]
    passes = (shade[:, :-1] < 0) != (shade[:, 1:] < 0)
    assert passes.any(axis=1).all(), "an edge of the labels where the image has none"
    at = passes.argmax(axis=1)
    each = np.arange(len(shade))
    before, after = shade[each, at], shade[each, at + 1]
    return -(at - NEAR + before / (before - after) - 0.5)


def transposed(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Image and labels with rows and columns exchanged, so that `offsets` counts downwards."""
    return image.transpose(1, 2).contiguous(), labels.T.contiguous()
