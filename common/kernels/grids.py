"""How the cells of an output grid lie on the pixels of a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

Alignment = Literal["middles", "corners", "stretched"]
"""Cells lie in the middle of their pixels; or at the pixels that are multiples of the grid's stride, as in
crops of 513 pixels at stride 16; or are stretched over the input, corner cells' centres on corner pixels."""


def enlarged(logits: Tensor, size: Sequence[int], alignment: Alignment) -> Tensor:
    """Logits of an output grid, bilinearly at the pixels of the network's input.

    Args:
        logits: `[N, K, h, w]`.
        size: The size H', W' of the network's input.
        alignment: How the cells lie on the pixels.

    Returns:
        `[N, K, H', W']`; for `corners` less what lies below and right of the last cell.
    """
    full = [*size]
    if alignment == "corners":
        full = [side - side // cells + 1 for side, cells in zip(full, logits.shape[2:])]
    align_corners = alignment != "middles"
    return functional.interpolate(logits, full, mode="bilinear", align_corners=align_corners)
