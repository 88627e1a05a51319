"""Binary cross-entropy and pooled sigmoids of logits, in one pass over them, as one PyTorch operator.

`methods/bce.py` and `methods/rmi.py` use it. Logits are read once, and once more for the derivative, which
is written in one pass; in between nothing of their size is kept but themselves. The kernels are
`cuda/sigmoids.*`; where they cannot be compiled, PyTorch computes the same, with maps of the logits' size.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from common.kernels import cpu, gpu
from common.kernels.transforms import transformed

NAMES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat", torch.float16: "half"}
"""What the sources call the types of logits; half precision is computed in float32."""

EXACT_BELOW = 40
"""Beyond it, softplus(x) is x to the last digit of a float64."""

SIDE = 4
"""Pixels along the side of a cell where nothing is pooled."""

CELLS, THREADS = 32, 128
"""Of a block on a GPU: the most cells, and how many threads."""


class Sigmoids(NamedTuple):
    """What a pass over logits gives; all but `valid` at least in float32.

    Attributes:
        cross_entropy: The sum of `softplus(x) − x·[label = class]` over classes and the pixels that are not
            void, divided by their number and one, 0-dim.
        valid: How many pixels are not void, float64, 0-dim.
        predicted: The sum of the sigmoids of such pixels in each cell, `[N, K, h, w]`.
        truth: How many of its pixels have that class as their label, of the same shape.
    """

    cross_entropy: Tensor
    valid: Tensor
    predicted: Tensor
    truth: Tensor


class _Pixels(ctypes.Structure):
    """How the logits lie and are pooled, as `cuda/sigmoids.h` has it."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            *("images", "classes", "height", "width", "side", "padding", "rows", "columns"),
            *("together", "ignored"),
        )
    ]


def sigmoids(logits: Tensor, labels: Tensor, void: int, side: int = 0, floor: float = 0.0) -> Sigmoids:
    """What `Sigmoids` has; cells are those of an average pool of size and stride `side`.

    The pool's padding is `side // 2`. Differentiable any number of times if nothing is pooled, else once; a
    second time is refused. In forward mode and inside transformations of `torch.func` it is computed in plain
    PyTorch.

    Args:
        logits: Real `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or void; others count as void.
        void: The label of void; it may be one of 0..K−1.
        side: Pixels along the side of a cell; 0 means that nothing is pooled, and the maps are empty.
        floor: Added to the sigmoid of every pixel of a cell, those that are void included.
    """
    labels = labels.long()
    if transformed():
        return Sigmoids(*_plain(logits, labels, void, side, floor))
    return Sigmoids(*sigmoids_operator(logits, labels, void, side, floor))


Results = tuple[Tensor, Tensor, Tensor, Tensor]
"""The fields of `Sigmoids`."""


@torch.library.custom_op("structseg::sigmoids", mutates_args=())
def sigmoids_operator(
    logits: Tensor, labels: Tensor, void: int, side: int, floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator of `sigmoids`."""
    logits, labels = _laid_out(logits), labels.contiguous()
    if not _available(logits):
        return _plain(logits, labels, void, side, floor)
    value, valid, predicted, truth = _results(logits, side)
    pixels = _pixels(logits, void, side)
    maps = (ctypes.c_double(floor), *((predicted, truth) if side else (None, None)))
    if _on_cpu(logits):
        _call("forward", pixels, logits, labels, *maps, value, valid)
        return value, valid, predicted, truth
    blocks, cells = _blocks(pixels)
    parts = valid.new_empty(blocks, 2)
    _launch("forward", pixels, cells, blocks, logits, (logits, labels, *maps, parts))
    place = ("sigmoids", "finish", _scalar(logits), logits.device)
    gpu.launch(*place, 1, _shared_sums(), (blocks, parts, value, valid), THREADS)
    return value, valid, predicted, truth


@sigmoids_operator.register_fake
def _(
    logits: Tensor, labels: Tensor, void: int, side: int, floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _results(logits, side)


@torch.library.custom_op("structseg::sigmoids_backward", mutates_args=())
def sigmoids_backward(
    logits: Tensor,
    labels: Tensor,
    void: int,
    side: int,
    by_value: Tensor,
    valid: Tensor,
    by_predicted: Tensor,
) -> Tensor:
    """The derivative of `sigmoids` by the logits.

    Args:
        logits: As given to it.
        labels: As given to it.
        void: As given to it.
        side: As given to it.
        by_value: The derivative by the cross-entropy, 0-dim.
        valid: From `sigmoids`.
        by_predicted: The derivative by the sums of cells, `[N, K, h, w]`; not used if nothing is pooled.

    Returns:
        As the logits are.
    """
    kind, logits, labels = logits.dtype, _laid_out(logits), labels.contiguous()
    if not _available(logits):
        return _plain_backward(logits, labels, void, side, by_value / (valid + 1), by_predicted).to(kind)
    result = torch.empty_like(logits)
    pixels = _pixels(logits, void, side)
    by_cells = by_predicted.contiguous() if side else None
    if _on_cpu(logits):
        factor = ctypes.c_double(by_value.item() / (valid.item() + 1))
        _call("backward", pixels, logits, labels, factor, by_cells, result)
        return result.to(kind)
    blocks, cells = _blocks(pixels)
    _launch("backward", pixels, cells, blocks, logits, (logits, labels, by_value, valid, by_cells, result))
    return result


@sigmoids_backward.register_fake
def _(
    logits: Tensor,
    labels: Tensor,
    void: int,
    side: int,
    by_value: Tensor,
    valid: Tensor,
    by_predicted: Tensor,
) -> Tensor:
    return torch.empty_like(_laid_out(logits)).to(logits.dtype)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, float], output: Results) -> None:
    """Keeps what the derivative needs."""
    logits, labels, ctx.void, ctx.side, _ = inputs
    _, valid, _, truth = output
    ctx.save_for_backward(logits, labels, valid)
    ctx.mark_non_differentiable(valid, truth)


def _backward(
    ctx: Any, by_value: Tensor, by_valid: Tensor, by_predicted: Tensor, by_truth: Tensor
) -> tuple[Tensor | None, ...]:
    """The derivatives by all inputs of `sigmoids`."""
    logits, labels, valid = ctx.saved_tensors
    gradient = sigmoids_backward(logits, labels, ctx.void, ctx.side, by_value, valid, by_predicted)
    return gradient, None, None, None, None


def _keep_for_second(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keeps what the second derivative needs."""
    logits, labels, ctx.void, ctx.side, by_value, valid, _ = inputs
    ctx.save_for_backward(logits, labels, by_value, valid)


def _second(ctx: Any, by_gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The derivatives by all inputs of `sigmoids_backward`, which can be derived further."""
    if ctx.side:
        raise RuntimeError("second derivatives of pooled sigmoids are not available")
    logits, labels, by_value, count = ctx.saved_tensors
    valid = _valid(labels, logits.shape[1], ctx.void)
    values = logits.sigmoid() * valid.unsqueeze(1)
    by_gradient = by_gradient / (count + 1)
    by_logits = by_gradient * by_value * values * (1 - values)
    by_by_value = (by_gradient * (values - _one_hot(labels, valid, values))).sum()
    return by_logits, None, None, None, by_by_value.to(by_value), None, None


sigmoids_operator.register_autograd(_backward, setup_context=_keep)
sigmoids_backward.register_autograd(_second, setup_context=_keep_for_second)


def cells_of(length: int, side: int) -> int:
    """Cells along a side of an image: of a pool of size and stride `side`, with padding `side // 2`."""
    return (length + 2 * (side // 2) - side) // side + 1


def _laid_out(logits: Tensor) -> Tensor:
    """Logits whose pixels or classes lie one behind the other, in a type that the kernels know."""
    if _on_cpu(logits) or logits.dtype not in NAMES:
        logits = logits.float() if logits.dtype != torch.double else logits
    if logits.is_contiguous(memory_format=torch.channels_last):
        return logits
    return logits.contiguous()


def _results(logits: Tensor, side: int) -> Results:
    """Empty results of the operator."""
    n, k, height, width = logits.shape
    shape = (n, k, cells_of(height, side), cells_of(width, side)) if side else (0,)
    kind = torch.double if logits.dtype == torch.double else torch.float
    value, predicted, truth = (logits.new_empty(x, dtype=kind) for x in ((), shape, shape))
    return value, logits.new_empty((), dtype=torch.double), predicted, truth


def _pixels(logits: Tensor, void: int, side: int) -> _Pixels:
    """What the kernels are told of the logits."""
    n, k, height, width = logits.shape
    pooled = (cells_of(height, side), cells_of(width, side)) if side else (0, 0)
    geometry = (side, side // 2) if side else (SIDE, 0)
    together = k > 1 and not logits.is_contiguous()
    ignored = void if -(2**31) <= void < 2**31 else -1  # what no integer of C is, is no class
    return _Pixels(n, k, height, width, *geometry, *pooled, together, ignored)


def _available(logits: Tensor) -> bool:
    """Whether there is a kernel for logits."""
    if logits.numel() == 0:
        return False
    if logits.device.type == "cuda" and logits[0].numel() < 2**31:
        return gpu.loadable("sigmoids", _scalar(logits), logits.device)
    return logits.device.type == "cpu" and cpu.library("sigmoids") is not None


def _on_cpu(logits: Tensor) -> bool:
    """Whether `cuda/sigmoids.cpp` is for them."""
    return logits.device.type == "cpu"


def _scalar(logits: Tensor) -> str:
    """The type that is computed in."""
    return "double" if logits.dtype == torch.double else "float"


def _call(name: str, pixels: _Pixels, *arguments: Any) -> None:
    """Calls a function of `cuda/sigmoids.cpp`; the first argument are the logits."""
    function = getattr(cpu.library("sigmoids"), f"{name}_{NAMES[arguments[0].dtype]}")
    values = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else x for x in arguments]
    function(ctypes.byref(pixels), *values, torch.get_num_threads())


def _blocks(pixels: _Pixels) -> tuple[int, int]:
    """How many blocks there are on a GPU, and cells of each: a part of a row of cells."""
    rows, columns = (
        (length + pixels.padding - 1) // pixels.side + 1 for length in (pixels.height, pixels.width)
    )
    parts = -(-columns // CELLS)
    return pixels.images * rows * parts, -(-columns // parts)


def _launch(
    name: str, pixels: _Pixels, cells: int, blocks: int, logits: Tensor, arguments: tuple[Any, ...]
) -> None:
    """Starts a kernel of `cuda/sigmoids.cu` for a type of logits."""
    shared = _shared_sums() + 4 * cells * pixels.side**2
    kernel = f"{name}_{NAMES[logits.dtype] if logits.dtype.itemsize < 4 else 'full'}"
    place = ("sigmoids", kernel, _scalar(logits), logits.device)
    gpu.launch(*place, blocks, shared, (pixels, cells, *arguments), THREADS)


def _shared_sums() -> int:
    """Bytes of shared memory for two sums of each warp of a block."""
    return 8 * 2 * (THREADS // 32)


def _valid(labels: Tensor, classes: int, void: int) -> Tensor:
    """Which pixels have a class."""
    return (labels != void) & (labels >= 0) & (labels < classes)


def _one_hot(labels: Tensor, valid: Tensor, like: Tensor) -> Tensor:
    """1 at the class of each pixel that is not void, else 0, `[N, K, H, W]`."""
    target = labels.where(valid, 0).unsqueeze(1)
    return torch.zeros_like(like).scatter(1, target, valid.unsqueeze(1).to(like.dtype))


def _plain(logits: Tensor, labels: Tensor, void: int, side: int, floor: float) -> Results:
    """What `sigmoids_operator` returns, by functions that PyTorch can transform."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    valid = _valid(labels, logits.shape[1], void)
    target = labels.where(valid, 0).unsqueeze(1)
    softplus = functional.softplus(logits, threshold=EXACT_BELOW).sum(dim=1)
    per_pixel = softplus - logits.gather(1, target).squeeze(1)
    count = valid.sum()
    value = (per_pixel * valid).sum() / (count + 1)
    if not side:
        return value, count.double(), logits.new_empty(0), logits.new_empty(0)
    values = logits.sigmoid() * valid.unsqueeze(1) + floor
    predicted = functional.avg_pool2d(values, side, side, side // 2, divisor_override=1)
    truth = truth_of_cells(labels, valid, logits.shape[1], side).to(logits.dtype)
    return value, count.double(), predicted, truth


def _plain_backward(
    logits: Tensor, labels: Tensor, void: int, side: int, by_total: Tensor, by_predicted: Tensor
) -> Tensor:
    """What `sigmoids_backward` returns, in PyTorch; takes the derivative by the sum of the cross-entropy."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    valid = _valid(labels, logits.shape[1], void)
    values = logits.sigmoid() * valid.unsqueeze(1)
    by_total = by_total.to(logits.dtype)
    target = labels.where(valid, 0).unsqueeze(1)
    gradient = (by_total * values).scatter_add_(1, target, -(by_total * valid).unsqueeze(1))
    if side:
        by_pixels = functional.interpolate(by_predicted, scale_factor=side, mode="nearest")
        (height, width), padding = logits.shape[2:], side // 2
        beyond = [
            max(0, length + padding - pooled) for length, pooled in zip((height, width), by_pixels.shape[2:])
        ]
        by_pixels = functional.pad(by_pixels, (0, beyond[1], 0, beyond[0]))
        by_pixels = by_pixels[:, :, padding : padding + height, padding : padding + width]
        gradient += by_pixels * values * (1 - values)
    return gradient


def truth_of_cells(labels: Tensor, valid: Tensor, classes: int, side: int) -> Tensor:
    """How many pixels of each cell have each class, `[N, K, h, w]` in float64, without one-hot labels.

    Args:
        labels: Integers `[N, H, W]`.
        valid: Which of them are classes, of the same shape.
        classes: K.
        side: Pixels along the side of a cell, as in `sigmoids`.
    """
    h, w = (cells_of(length, side) for length in labels.shape[1:])
    row = torch.arange(labels.shape[1], device=labels.device).add(side // 2) // side
    column = torch.arange(labels.shape[2], device=labels.device).add(side // 2) // side
    inside = valid & (row < h).unsqueeze(1) & (column < w)
    cell = (labels.long() * h + row.unsqueeze(1)) * w + column
    counts = torch.zeros(len(labels), classes * h * w, dtype=torch.double, device=labels.device)
    counts.scatter_add_(1, cell.where(inside, 0).flatten(1), inside.double().flatten(1))
    return counts.view(-1, classes, h, w)
