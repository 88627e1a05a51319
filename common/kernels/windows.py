"""Sums of products over the windows of pairs of maps, as one PyTorch operator; methods/rmi.py uses them.

On a CPU with a C++ compiler no window is ever copied out (`cuda/windows.cpp`); elsewhere, and for large
windows, those of some rows are at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.kernels import cpu
from common.kernels.transforms import transformed

LARGEST = 5
"""The radius from which on matrix products of copied windows are faster."""

BLOCK = 2**23
"""Bytes of windows that are copied at a time."""


def window_products(first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Sums over all positions of x·xᵀ and of x, the R×R windows of both maps at a position.

    Differentiable once by the first map, a second time is refused. In forward mode, inside transformations of
    `torch.func`, and where the second map has a derivative too, it is computed in plain PyTorch, slower and
    with all windows at a time; then it is differentiable any number of times.

    Args:
        first: float64 `[B, h, w]`.
        second: The same shape.
        radius: R, at most h and w.

    Returns:
        `[B, 2R², 2R²]` and `[B, 2R²]`; those of the first map come first.
    """
    if transformed() or (second.requires_grad and torch.is_grad_enabled()):
        maps = torch.stack([first, second], dim=1)
        windows = _windows(maps, radius, range(maps.shape[2] - radius + 1))
        return windows @ windows.mT, windows.sum(dim=2)
    return window_products_operator(first, second, radius)


@torch.library.custom_op("structseg::window_products", mutates_args=())
def window_products_operator(first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The operator of `window_products`, with its arguments and results; the second map has no derivative."""
    maps = torch.stack([first, second], dim=1)
    size = 2 * radius**2
    products, sums = maps.new_zeros(len(maps), size, size), maps.new_zeros(len(maps), size)
    if _compiled(maps, radius):
        _call("products", maps, radius, products, sums)
        return products, sums
    for rows in _blocks(maps, radius):
        windows = _windows(maps, radius, rows)
        products += windows @ windows.mT
        sums += windows.sum(dim=2)
    return products, sums


@window_products_operator.register_fake
def _(first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    size = 2 * radius**2
    return first.new_empty(len(first), size, size), first.new_empty(len(first), size)


@torch.library.custom_op("structseg::window_products_backward", mutates_args=())
def window_products_backward(
    first: Tensor, second: Tensor, radius: int, by_products: Tensor, by_sums: Tensor
) -> Tensor:
    """The derivative of `window_products` by the first map.

    Args:
        first: As given to it.
        second: As given to it.
        radius: As given to it.
        by_products: The derivative by the sums of products, `[B, 2R², 2R²]`.
        by_sums: That by the sums, `[B, 2R²]`.

    Returns:
        `[B, h, w]`.
    """
    maps = torch.stack([first, second], dim=1)
    matrix = (by_products + by_products.mT)[:, : radius**2].contiguous()
    offset = by_sums[:, : radius**2].contiguous()
    result = torch.zeros_like(first, memory_format=torch.contiguous_format)
    if _compiled(maps, radius):
        _call("products_backward", maps, radius, matrix, offset, result)
        return result
    for rows in _blocks(maps, radius):
        change = matrix @ _windows(maps, radius, rows) + offset.unsqueeze(2)
        change = change.unflatten(2, (len(rows), -1))
        width = change.shape[3]
        for place in range(radius**2):
            down, right = divmod(place, radius)
            part = result[:, rows.start + down : rows.stop + down, right : right + width]
            part += change[:, place]
    return result


@window_products_backward.register_fake
def _(first: Tensor, second: Tensor, radius: int, by_products: Tensor, by_sums: Tensor) -> Tensor:
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    """Keeps what the derivative needs."""
    first, second, ctx.radius = inputs
    ctx.save_for_backward(first, second)


def _backward(ctx: Any, by_products: Tensor, by_sums: Tensor) -> tuple[Tensor, None, None]:
    """The derivatives by all inputs of `window_products`."""
    return window_products_backward(*ctx.saved_tensors, ctx.radius, by_products, by_sums), None, None


def _refuse(ctx: Any, *_: Tensor) -> None:
    """Refuses second derivatives."""
    raise RuntimeError("second derivatives of sums over windows are not available")


window_products_operator.register_autograd(_backward, setup_context=_keep)
window_products_backward.register_autograd(_refuse)


def _compiled(maps: Tensor, radius: int) -> bool:
    """Whether the compiled kernel is there and is the faster one."""
    return maps.device.type == "cpu" and radius <= LARGEST and cpu.library("windows") is not None


def _call(name: str, maps: Tensor, radius: int, *arrays: Tensor) -> None:
    """Calls a function of `cuda/windows.cpp`."""
    batch, _, height, width = map(ctypes.c_longlong, maps.shape)
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (maps, *arrays)]
    function = getattr(cpu.library("windows"), name)
    shape = (batch, height, width, ctypes.c_longlong(radius))
    function(pointers[0], *shape, *pointers[1:], torch.get_num_threads())


def _blocks(maps: Tensor, radius: int) -> Iterator[range]:
    """Rows of windows, so many at a time that copies of them are small."""
    count = maps.shape[2] - radius + 1
    row = maps.shape[0] * 2 * radius**2 * maps.shape[3] * maps.element_size()
    step = max(1, BLOCK // row)
    return (range(first, min(first + step, count)) for first in range(0, count, step))


def _windows(maps: Tensor, radius: int, rows: range) -> Tensor:
    """The windows at some rows, each a column, `[B, 2R², positions]`."""
    part = maps[:, :, rows.start : rows.stop + radius - 1]
    windows = part.unfold(2, radius, 1).unfold(3, radius, 1).permute(0, 1, 4, 5, 2, 3)
    return windows.reshape(len(maps), 2 * radius**2, -1)
