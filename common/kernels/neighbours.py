"""Messages between the pixels of windows, weighted by how alike they are: for CRFs on neighbourhoods.

A window are the pixels at displacements d, S×S of them, a dilation apart. Pixel i gets from each of its
window its values, weighted by an affinity G_d(i) that i and i + d have for each other:

    m(i) = Σ_d G_d(i) · W_d · v(i + d)

with matrices W_d, or none. Beyond the border values are zero. It goes displacement by displacement, as
windows that are copied out (`torch.nn.functional.unfold`) cost far more time and memory; the derivative keeps
nothing but the inputs. Plain PyTorch on any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor


def squared_distances(features: Tensor, size: int, dilation: int = 1) -> Tensor:
    """How far features are from those of the pixels of their windows, without a derivative.

    Args:
        features: `[N, C, h, w]`.
        size: S, odd: the window's pixels per side.
        dilation: By how many pixels they are apart.

    Returns:
        `[N, S, S, h, w]`, by row and column of the displacement; 0 beyond the border, where no values are.
    """
    with torch.no_grad():
        n, _, h, w = features.shape
        result = features.new_zeros(n, size, size, h, w)
        for row, column, here, there in _displacements(features, size, dilation):
            result[:, row, column][here] = (features[there] - features[here]).square_().sum(dim=1)
        return result


def window_messages(
    values: Tensor, affinities: Tensor, matrices: Tensor | None = None, dilation: int = 1
) -> Tensor:
    """The messages m that pixels get from their windows.

    Args:
        values: v, `[N, C, h, w]`.
        affinities: G, `[N, S, S, h, w]` with S odd, symmetric: what pixel i has for i + d is what i + d has
            for i.
        matrices: W, `[K, C, S, S]`; None if values are passed on as they are.
        dilation: By how many pixels the pixels of a window are apart.

    Returns:
        `[N, K, h, w]`, or `[N, C, h, w]` without matrices; differentiable by all three, as often as wanted.
    """
    return _Messages.apply(values, affinities, matrices, dilation)


class _Messages(torch.autograd.Function):
    """The messages, and their derivatives."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, affinities: Tensor, matrices: Tensor | None, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(values, affinities, matrices)
        ctx.dilation = dilation
        return _messages(values, affinities, matrices, dilation)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        values, affinities, matrices = ctx.saved_tensors
        needs, by = ctx.needs_input_grad, by.contiguous()
        by_values = by_affinities = by_matrices = None
        if needs[0]:  # as affinities are symmetric, messages go back the way they came
            back = None if matrices is None else matrices.transpose(0, 1).flip(2, 3)
            by_values = window_messages(by, affinities, back, ctx.dilation)
        if needs[1] or needs[2]:
            by_affinities, by_matrices = _derivatives(values, affinities, matrices, ctx.dilation, by)
        return by_values, by_affinities, by_matrices, None


def _messages(values: Tensor, affinities: Tensor, matrices: Tensor | None, dilation: int) -> Tensor:
    """As `window_messages`, without a derivative."""
    n, channels, h, w = values.shape
    result = values.new_zeros(n, channels if matrices is None else len(matrices), h, w)
    for row, column, here, there in _displacements(values, affinities.shape[1], dilation):
        affinity, others = affinities[:, None, row, column][here], values[there]
        if matrices is None:
            result[here].addcmul_(others, affinity)
        else:
            messages = matrices[:, :, row, column] @ (others * affinity).flatten(2)
            result[here] += messages.unflatten(2, others.shape[2:])
    return result


def _derivatives(
    values: Tensor, affinities: Tensor, matrices: Tensor | None, dilation: int, by: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The derivatives by affinities and matrices.

    Args:
        values: As in `window_messages`.
        affinities: As in `window_messages`.
        matrices: As in `window_messages`.
        dilation: As in `window_messages`.
        by: The derivative by the messages, `[N, K, h, w]`.
    """
    by_affinities = torch.zeros_like(affinities)
    by_matrices = None if matrices is None else torch.zeros_like(matrices)
    for row, column, here, there in _displacements(values, affinities.shape[1], dilation):
        by_weighted, others = by[here], values[there]
        if matrices is not None and by_matrices is not None:
            by_products = by_weighted.flatten(2)
            weighted = (others * affinities[:, None, row, column][here]).flatten(2)
            by_matrices[:, :, row, column] = (by_products @ weighted.mT).sum(dim=0)
            by_weighted = (matrices[:, :, row, column].mT @ by_products).view(others.shape)
        by_affinities[:, row, column][here] = (by_weighted * others).sum(dim=1)
    return by_affinities, by_matrices


Part = tuple[slice | EllipsisType, ...]
"""Of images, some rows and columns."""


def _displacements(values: Tensor, size: int, dilation: int) -> Iterator[tuple[int, int, Part, Part]]:
    """The displacements of an S×S window that do not all lead beyond the border.

    Args:
        values: `[…, h, w]`.
        size: S.
        dilation: By how many pixels the pixels of a window are apart.

    Yields:
        Row and column in the window, the pixels whose displaced ones are inside, and the displaced ones.
    """
    reach = size // 2
    for row in range(size):
        for column in range(size):
            ends = [
                _ends(side, (place - reach) * dilation)
                for side, place in zip(values.shape[-2:], (row, column))
            ]
            if all(here.start < here.stop for here, _ in ends):
                here, there = zip(*ends)
                yield row, column, (..., *here), (..., *there)


def _ends(side: int, by: int) -> tuple[slice, slice]:
    """The pixels along a side that stay on it when they are displaced, and where they come to lie."""
    return slice(max(0, -by), side - max(0, by)), slice(max(0, by), side - max(0, -by))
