"""The entropy of the windows of one map given those of another, as one PyTorch operator, for methods/rmi.py.

A window is an R×R neighbourhood, and an observation of an R²-dimensional variable. No window is ever copied
out: their covariances are sums of products of maps by displacement (`cuda/windows.h`), on CUDA devices and
on a CPU with a C++ compiler. Elsewhere, and for windows that are large or hardly smaller than the map, those
of some rows are copied at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.kernels import cpu, gpu
from common.kernels.transforms import transformed

LARGEST = 5
"""The largest radius that the kernels are compiled for; for larger ones matrix products are used."""

BLOCK = 2**23
"""Bytes of windows that are copied at a time."""

NAMES = {torch.float32: "float", torch.float64: "double"}
"""What the sources call the types of maps."""

STRIPS = 8
"""Of rows, for the warps of a block; as `cuda/windows.cu` has it."""


def window_entropies(first: Tensor, second: Tensor, radius: int, ridge: float, scale: float = 1.0) -> Tensor:
    """`½·logdet(Σ_{Y|P} + ridge·I)`: up to a constant, the entropy of the second's windows given the first's.

    P and Y are the R×R windows of the two maps, their Σ sums over all positions of products of centred
    windows, and `Σ_{Y|P} = Σ_Y − Σ_YP (Σ_P + ridge·I)⁻¹ Σ_PY`. It is never formed: its Cholesky factor is the
    lower right block of the factor of the joint Σ with the ridge on its whole diagonal.

    Differentiable once by the first map, a second time is refused. In forward mode, inside transformations of
    `torch.func`, and where the second map has a derivative too, it is computed in plain PyTorch, slower and
    with all windows at a time; then it is differentiable any number of times.

    Args:
        first: Real `[B, h, w]`; computed in float64.
        second: The same shape.
        radius: R, at most h and w.
        ridge: Added to the diagonals, positive.
        scale: Both maps are multiplied by it first.

    Returns:
        `[B]` in float64; NaN where a map is not finite.
    """
    if transformed() or (second.requires_grad and torch.is_grad_enabled()):
        return _plain(first, second, radius, ridge, scale)
    return window_entropies_operator(first, second, radius, ridge, scale)[0]


@torch.library.custom_op("structseg::window_entropies", mutates_args=())
def window_entropies_operator(
    first: Tensor, second: Tensor, radius: int, ridge: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator of `window_entropies`; the second map has no derivative.

    Returns:
        The entropies `[B]`, and of their derivatives by a window of the first map, which are
        matrix · (the window of both maps) + offset, matrix `[B, R², 2R²]` and offset `[B, R²]`. Float64.
    """
    first, second = _alike(first, second)
    results = _results(first, radius)
    if _compiled(first, radius):
        _call("entropies", first, second, radius, ctypes.c_double(scale), ctypes.c_double(ridge), *results)
    elif _on_gpu(first, radius):
        _entropies_on_gpu(first, second, radius, ridge, scale, results)
    else:
        return _entropies_by_rows(first, second, radius, ridge, scale)
    return results


@window_entropies_operator.register_fake
def _(
    first: Tensor, second: Tensor, radius: int, ridge: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(first, radius)


@torch.library.custom_op("structseg::window_entropies_backward", mutates_args=())
def window_entropies_backward(
    first: Tensor, second: Tensor, radius: int, matrix: Tensor, offset: Tensor, by_entropies: Tensor
) -> Tensor:
    """The derivative of `window_entropies` by the first map.

    Args:
        first: As given to it.
        second: As given to it.
        radius: As given to it.
        matrix: From its operator.
        offset: From its operator.
        by_entropies: The derivative by the entropies, float64 `[B]`.

    Returns:
        `[B, h, w]`, of the type of the first map.
    """
    kind = first.dtype
    first, second = _alike(first, second)
    result = torch.empty_like(first)
    by_entropies = by_entropies.contiguous()
    if _compiled(first, radius):
        _call("entropies_backward", first, second, radius, matrix, offset, by_entropies, result)
    elif _on_gpu(first, radius):
        _backward_on_gpu(first, second, radius, matrix, offset, by_entropies, result)
    else:
        matrix, offset = matrix * by_entropies.view(-1, 1, 1), offset * by_entropies.view(-1, 1)
        result = _backward_by_rows(first, second, radius, matrix, offset)
    return result.to(kind)


@window_entropies_backward.register_fake
def _(
    first: Tensor, second: Tensor, radius: int, matrix: Tensor, offset: Tensor, by_entropies: Tensor
) -> Tensor:
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, float, float], output: tuple[Tensor, ...]) -> None:
    """Keeps what the derivative needs."""
    first, second, ctx.radius, *_ = inputs
    ctx.save_for_backward(first, second, *output[1:])


def _backward(ctx: Any, by_entropies: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
    """The derivatives by all inputs of `window_entropies`."""
    first, second, matrix, offset = ctx.saved_tensors
    gradient = window_entropies_backward(first, second, ctx.radius, matrix, offset, by_entropies)
    return gradient, None, None, None, None


def _refuse(ctx: Any, *_: Tensor) -> None:
    """Refuses second derivatives."""
    raise RuntimeError("second derivatives of the entropy of windows are not available")


window_entropies_operator.register_autograd(_backward, setup_context=_keep)
window_entropies_backward.register_autograd(_refuse)


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps contiguous and of one type that the kernels know."""
    kind = torch.promote_types(first.dtype, second.dtype)
    kind = kind if kind in NAMES else torch.float32
    return first.to(kind).contiguous(), second.to(kind).contiguous()


def _results(first: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Empty results of the operator."""
    batch, area = len(first), radius**2
    shapes = ((batch,), (batch, area, 2 * area), (batch, area))
    entropies, matrix, offset = (first.new_empty(shape, dtype=torch.double) for shape in shapes)
    return entropies, matrix, offset


def _suitable(maps: Tensor, radius: int) -> bool:
    """Whether the kernels can compute it: there must be rows and columns that all places of windows reach."""
    return radius <= LARGEST and min(maps.shape[1:]) >= 2 * radius - 1 and maps.numel() > 0


def _compiled(maps: Tensor, radius: int) -> bool:
    """Whether `cuda/windows.cpp` computes it."""
    return maps.device.type == "cpu" and _suitable(maps, radius) and cpu.library("windows") is not None


def _on_gpu(maps: Tensor, radius: int) -> bool:
    """Whether `cuda/windows.cu` computes it."""
    if maps.device.type != "cuda" or not _suitable(maps, radius):
        return False
    return gpu.loadable("windows", NAMES[maps.dtype], maps.device, _defines(radius))


def _call(name: str, first: Tensor, second: Tensor, radius: int, *arguments: Any) -> None:
    """Calls a function of `cuda/windows.cpp`."""
    batch, height, width = first.shape
    pointers = [
        ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else x for x in (first, second, *arguments)
    ]
    function = getattr(cpu.library("windows"), f"{name}_{NAMES[first.dtype]}")
    sizes = (ctypes.c_longlong(batch), height, width, radius)
    function(*pointers[:2], *sizes, *pointers[2:], torch.get_num_threads())


def _entropies_on_gpu(
    first: Tensor, second: Tensor, radius: int, ridge: float, scale: float, results: tuple[Tensor, ...]
) -> None:
    """Fills the results of the operator."""
    (batch, height, width), side = first.shape, 2 * radius - 1
    sums, places = 2 + 4 * side, 2 * radius**2
    means = [x.mean(dim=(1, 2), dtype=torch.double) for x in (first, second)]
    table = first.new_empty(batch, radius, side**2, sums, dtype=torch.double)
    shared = 8 * (STRIPS + side - 1) * side * sums
    maps = (height, width, first, second, *means)
    _launch("products", radius, first, batch * radius, 256, shared, *maps, table)
    count = float((height - radius + 1) * (width - radius + 1))
    numbers = map(ctypes.c_double, (count, scale, ridge))
    shared = 8 * (2 * places**2 + places)
    _launch("entropies", radius, first, batch, 128, shared, *numbers, table, *results)


def _backward_on_gpu(
    first: Tensor, second: Tensor, radius: int, matrix: Tensor, offset: Tensor, by: Tensor, result: Tensor
) -> None:
    """Fills the derivative by the first map."""
    (batch, height, width), side = first.shape, 2 * radius - 1
    means = [x.mean(dim=(1, 2), dtype=torch.double) for x in (first, second)]
    stencils = first.new_empty(batch, side**2, 1 + 2 * side**2, dtype=torch.double)
    _launch("stencils", radius, first, batch, 256, 0, matrix, offset, by, stencils)
    blocks, threads = batch * (STRIPS + side - 1), min(256, -(-width // 32) * 32)
    maps = (height, width, first, second, *means)
    _launch("apply", radius, first, blocks, threads, 0, *maps, stencils, result)


def _launch(
    kernel: str, radius: int, like: Tensor, blocks: int, threads: int, shared: int, *arguments: Any
) -> None:
    """Starts a kernel of `cuda/windows.cu`."""
    place = ("windows", f"{kernel}_{radius}", NAMES[like.dtype], like.device)
    gpu.launch(*place, blocks, shared, arguments, threads, _defines(radius))


def _defines(radius: int) -> tuple[str]:
    """Macros by which the source is compiled for one radius, which takes less time."""
    return (f"RADIUS={radius}",)


def _plain(first: Tensor, second: Tensor, radius: int, ridge: float, scale: float) -> Tensor:
    """`window_entropies` in plain PyTorch, with all windows at a time."""
    maps = torch.stack([_centred(scale * x.double()) for x in (first, second)], dim=1)
    windows = _windows(maps, radius, range(maps.shape[2] - radius + 1))
    sums = windows.sum(dim=2)
    return _factor(windows @ windows.mT, sums, windows.shape[2], ridge)[0]


def _entropies_by_rows(
    first: Tensor, second: Tensor, radius: int, ridge: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The results of the operator in plain PyTorch, some rows of windows at a time."""
    maps = torch.stack([_centred(scale * x.double()) for x in (first, second)], dim=1)
    size, area = 2 * radius**2, radius**2
    products, sums = maps.new_zeros(len(maps), size, size), maps.new_zeros(len(maps), size)
    for rows in _blocks(maps, radius):
        windows = _windows(maps, radius, rows)
        products += windows @ windows.mT
        sums += windows.sum(dim=2)
    count = (maps.shape[2] - radius + 1) * (maps.shape[3] - radius + 1)
    entropies, factor = _factor(products, sums, count, ridge)
    identity = torch.eye(size, dtype=torch.double, device=factor.device).expand_as(factor)
    lower = torch.linalg.solve_triangular(factor, identity, upper=False)[:, area:]
    matrix = lower[:, :, :area].mT @ lower
    offset = -(matrix @ (sums / count).unsqueeze(2)).squeeze(2)
    return entropies, scale**2 * matrix, scale * offset


def _factor(products: Tensor, sums: Tensor, count: int, ridge: float) -> tuple[Tensor, Tensor]:
    """The entropies `[B]` of sums of products and sums of all windows, and the Cholesky factors."""
    covariance = products - sums.unsqueeze(2) * sums.unsqueeze(1) / count
    identity = torch.eye(sums.shape[1], dtype=torch.double, device=sums.device)
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge * identity)
    diagonal = factor.diagonal(dim1=1, dim2=2)[:, sums.shape[1] // 2 :]
    diagonal = diagonal.where((failed == 0).unsqueeze(1), torch.nan)  # only of maps that are not finite
    return diagonal.log().sum(dim=1), factor


def _backward_by_rows(first: Tensor, second: Tensor, radius: int, matrix: Tensor, offset: Tensor) -> Tensor:
    """The derivative by the first map in plain PyTorch, some rows of windows at a time."""
    maps = torch.stack([_centred(x.double()) for x in (first, second)], dim=1)
    result = torch.zeros_like(maps[:, 0])
    for rows in _blocks(maps, radius):
        change = matrix @ _windows(maps, radius, rows) + offset.unsqueeze(2)
        change = change.unflatten(2, (len(rows), -1))
        width = change.shape[3]
        for place in range(radius**2):
            down, right = divmod(place, radius)
            part = result[:, rows.start + down : rows.stop + down, right : right + width]
            part += change[:, place]
    return result


def _centred(maps: Tensor) -> Tensor:
    """Less their means, so that what is subtracted from the sums of products in the end is small."""
    return maps - maps.mean(dim=(1, 2), keepdim=True)


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
