"""Passes over all chains of a grid: messages and their derivatives, on the CPU and on CUDA devices.

The arrays that the kernels work on are packed: lines of the grid (its rows, then its columns, of all
images one after the other) in blocks of W, `[blocks, places along the line, …, W]`. W is the length of
the CPU's vectors, and 1 on CUDA. `cuda/chain.h` has the meaning of every array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.kernels import cpu, gpu

MAX_GAPS = 64
MAX_SHARED = 99 * 1024
"""Bytes of shared memory that a block can have on every GPU from Ampere on."""

NAMES = {torch.float32: "float32", torch.float64: "float64"}
SCALARS = {torch.float32: "float", torch.float64: "double"}

EXTRAS = 3
"""What a message has beside a number for each label; as in cuda/chain.h."""


class _Problem(ctypes.Structure):
    """`Problem` in cuda/chain.h."""

    _fields_ = [
        ("images", ctypes.c_int),
        ("labels", ctypes.c_int),
        ("gaps", ctypes.c_int),
        ("lines", ctypes.c_int * 2),
        ("valid", ctypes.c_int * 2),
        ("length", ctypes.c_int * 2),
        ("gap", ctypes.c_int * MAX_GAPS),
    ]


class _Scores(ctypes.Structure):
    """`Scores` in cuda/chain.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("left", "right", "left_weight", "right_weight")]


@torch.compiler.assume_constant_result
def available(device: torch.device, dtype: torch.dtype, labels: int, gaps: int) -> bool:
    """Whether there are kernels for a problem; compiles them at first use, warns once if it cannot."""
    if gaps > MAX_GAPS or dtype not in NAMES:
        return False
    if device.type == "cuda":
        fits = shared_memory(labels, dtype) <= MAX_SHARED
        return fits and gpu.loadable("chain", SCALARS[dtype], device)
    return device.type == "cpu" and cpu.library("chain") is not None


def shared_memory(labels: int, dtype: torch.dtype) -> int:
    """Bytes that a warp needs on the GPU; `scratch_size` in cuda/chain.h."""
    return (labels * ((labels | 1) + 6) + 32) * dtype.itemsize


def lanes(device: torch.device, dtype: torch.dtype) -> int:
    """W: how many chains one thread computes at a time."""
    if device.type != "cpu":
        return 1
    return getattr(cpu.library("chain"), f"lanes_{NAMES[dtype]}")()


@dataclass(frozen=True)
class Scores:
    """Pairwise scores, packed, and what the kernels make of them: `weights` in cuda/chain.h.

    Attributes:
        left: `[edges, K², W]`; or, factored, `[cells, K², W]` of the earlier ends.
        right: None; or `[cells, K², W]` of the later ends.
        left_weight: `[edges or cells, K² + 1, W]`; None of derivatives.
        right_weight: The same of `right`.
    """

    left: Tensor
    right: Tensor | None = None
    left_weight: Tensor | None = None
    right_weight: Tensor | None = None

    def pointers(self) -> _Scores:
        """What the kernels take."""
        arrays = (self.left, self.right, self.left_weight, self.right_weight)
        return _Scores(*(None if x is None else x.data_ptr() for x in arrays))


class Grid:
    """A grid of chains: how its arrays are packed, and the passes over them.

    Args:
        shape: N, K, h, w.
        gaps: Distances between neighbours on a chain.
        dtype: float32 or float64.
        device: Where the arrays are.
    """

    def __init__(
        self, shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.images, self.labels, self.height, self.width = shape
        self.gaps = tuple(gaps)
        self.dtype = dtype
        self.device = device
        self.lanes = lanes(device, dtype)
        self.lengths = (self.width, self.height)
        self.valid = (self.images * self.height, self.images * self.width)
        self.blocks = tuple(-(-lines // self.lanes) for lines in self.valid)
        self.sizes = tuple(blocks * length for blocks, length in zip(self.blocks, self.lengths))
        self.cells = sum(self.sizes)
        self.chains = sum(
            blocks * min(gap, length) for blocks, length in zip(self.blocks, self.lengths) for gap in gaps
        )
        self.on_gpu = device.type == "cuda"
        self._problem = _Problem(
            self.images,
            self.labels,
            len(gaps),
            self.blocks,
            self.valid,
            self.lengths,
            (ctypes.c_int * MAX_GAPS)(*gaps),
        )

    # Packing

    def new(self, *shape: int) -> Tensor:
        """An array of `shape` and W that has nothing in it yet."""
        return torch.empty((*shape, self.lanes), dtype=self.dtype, device=self.device)

    def pack(self, plain: Tensor) -> Tensor:
        """From `[N, R, h, w]` to `[cells, R, W]`; lines that only fill a block are 0."""
        packed = self.new(self.cells, plain.shape[1])
        rows, columns = packed.split(self.sizes)
        self._pack(rows, plain)
        self._pack(columns, plain.transpose(2, 3))
        return packed

    def unpack(self, packed: Tensor) -> Tensor:
        """From `[cells, R, W]` to `[N, R, h, w]`: the sum of what the rows and the columns have."""
        size = (self.images, packed.shape[1], self.height, self.width)
        plain = torch.empty(size, dtype=self.dtype, device=self.device)
        rows, columns = packed.split(self.sizes)
        self._unpack(plain, rows)
        self._unpack(plain.transpose(2, 3), columns, add=True)
        return plain

    def pack_images(self, values: Tensor) -> Tensor:
        """A number of each image `[N]` at each of its cells, `[cells, 1, W]`."""
        lines = self._by_line(values).split(self.blocks)
        parts = [part.repeat_interleave(length, 0) for part, length in zip(lines, self.lengths)]
        return torch.cat(parts).unsqueeze(1)

    def unpack_each(self, packed: Tensor) -> Tensor:
        """From `[gaps, cells, R, W]` to `[2 gaps, N, R, h, w]`: what the rows have, then the columns."""
        size = (2, len(packed), self.images, packed.shape[2], self.height, self.width)
        plain = torch.empty(size, dtype=self.dtype, device=self.device)
        for index, layer in enumerate(packed):
            rows, columns = layer.split(self.sizes)
            self._unpack(plain[0, index], rows)
            self._unpack(plain[1, index].transpose(2, 3), columns)
        return plain.flatten(0, 1)

    def pack_scores(
        self, gamma: Tensor, scores: Sequence[Tensor], factored: bool, weigh: bool = True
    ) -> Scores:
        """Packs pairwise scores and weighs them.

        Args:
            gamma: γ, a 0-dim tensor.
            scores: Of all gaps `[N, K, K, h, w−g]`, then of all gaps `[N, K, K, h−g, w]`; or, factored,
                two maps `[N, K, K, h, w]` of the earlier and of the later ends.
            factored: Which of the two.
            weigh: Whether a soft maximum is wanted, which needs weights.
        """
        if factored:
            left, right = (self.pack(x.flatten(1, 2)) for x in scores)
            weights = (self._weigh(gamma, x) for x in (left, right)) if weigh else ()
            return Scores(left, right, *weights)
        packed = self.new(sum(self._edges()), self.labels**2)
        for axis, part, plain in self._parts(packed, scores):
            self._pack(part, plain.transpose(2, 3) if axis else plain)
        return Scores(packed, left_weight=self._weigh(gamma, packed) if weigh else None)

    def _weigh(self, gamma: Tensor, packed: Tensor) -> Tensor:
        weights = self.new(len(packed), packed.shape[1] + 1)
        if self.on_gpu and len(packed):  # a grid of one cell has no edges
            self._launch("weigh", len(packed), self.labels, gamma, packed, weights)
        elif not self.on_gpu:
            self._call("weigh", self.labels, gamma, len(packed), packed, weights)
        return weights

    def unpack_scores(self, packed: Scores, like: Sequence[Tensor]) -> list[Tensor]:
        """The way back, to tensors of the shapes of `like`."""
        if packed.right is not None:
            return [self.unpack(x).view(y.shape) for x, y in zip((packed.left, packed.right), like)]
        result = [torch.empty(x.shape, dtype=self.dtype, device=self.device) for x in like]
        for axis, part, plain in self._parts(packed.left, result):
            self._unpack(plain.transpose(2, 3) if axis else plain, part)
        return result

    def _edges(self) -> list[int]:
        return [
            blocks * max(0, length - gap)
            for blocks, length in zip(self.blocks, self.lengths)
            for gap in self.gaps
        ]

    def _parts(self, packed: Tensor, scores: Sequence[Tensor]) -> list[tuple[int, Tensor, Tensor]]:
        """Of each item of `scores` its axis, its part of the packed array, and itself as `[N, K², …]`."""
        parts = packed.split(self._edges())
        axes = [axis for axis in range(2) for _ in self.gaps]
        return [(axis, part, x.flatten(1, 2)) for axis, part, x in zip(axes, parts, scores) if x.numel()]

    def _pack(self, packed: Tensor, plain: Tensor) -> None:
        if self.on_gpu:
            self._plainly(packed, plain).copy_(plain)
            return
        self._call("pack", packed, plain, *plain.shape, (ctypes.c_longlong * 4)(*plain.stride()))

    def _unpack(self, plain: Tensor, packed: Tensor, add: bool = False) -> None:
        if self.on_gpu:
            values = self._plainly(packed, plain)
            plain.add_(values) if add else plain.copy_(values)
            return
        strides = (ctypes.c_longlong * 4)(*plain.stride())
        self._call("unpack", plain, packed, int(add), *plain.shape, strides)

    @staticmethod
    def _plainly(packed: Tensor, plain: Tensor) -> Tensor:
        """A packed array with one line per block in the order of the plain one."""
        n, rows, lines, places = plain.shape
        return packed.view(n, lines, places, rows).permute(0, 3, 1, 2)

    # Passes

    def messages(self, gamma: Tensor, theta: Tensor, scores: Scores, message: Tensor) -> Tensor:
        """Walks all chains in both directions.

        Args:
            gamma: γ, a 0-dim tensor.
            theta: Unary scores of the chains in units of γ, `[gaps, cells, K, W]`.
            scores: From `pack_scores`.
            message: Filled with the messages, `[2, gaps, cells, K + EXTRAS, W]`.

        Returns:
            The sum over the chains of their maxima in units of γ, of each image `[N]`.
        """
        arrays = (self._problem, gamma, theta, scores.pointers(), message)
        if self.on_gpu:
            maxima = self.new(self.chains)
            self._launch("messages", 2 * self.chains, *arrays, maxima)
            return self._totals(maxima, 1)
        dual = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self._call("messages", *arrays, dual)
        return dual

    def marginals(self, theta: Tensor, message: Tensor) -> Tensor:
        """The max-marginals in units of γ, `[gaps, cells, K, W]`."""
        k = self.labels
        total = (message[0, :, :, k + 1] + message[1, :, :, k + 1]).unsqueeze(2)
        return theta + (message[0, :, :, :k] + message[1, :, :, :k]) + total

    def messages_backward(
        self,
        gamma: Tensor,
        by_gamma: bool,
        weight: Tensor,
        theta: Tensor,
        scores: Scores,
        message: Tensor,
        given: Tensor,
        carried: Tensor,
    ) -> Tensor:
        """Walks all chains back.

        Args:
            gamma: γ.
            by_gamma: Whether the derivative by γ is wanted, which costs time.
            weight: The derivative by the sum of maxima of each image, `[N]`.
            theta: As given to `messages`.
            scores: As given to `messages`.
            message: As filled by it.
            given: The derivative by the max-marginals, `[gaps, cells, K, W]`.
            carried: Filled with that by the messages, `[2, gaps, cells, K, W]`; the one by `theta` is
                `carried[0] + carried[1] − given`.

        Returns:
            The derivative by γ, of everything in the scores' own units; meaningless unless wanted.
        """
        weights = self._by_line(weight)
        known = (gamma, int(by_gamma), weights, theta, scores.pointers(), message, given)
        arrays = (self._problem, *known, carried)
        if self.on_gpu:
            entropies = self.new(2 * self.chains)
            self._launch("messages_backward", 2 * self.chains, *arrays, entropies)
            return self._totals(entropies, 2).sum()
        entropy = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self._call("messages_backward", *arrays, entropy)
        return entropy.sum()

    def scores_backward(
        self, gamma: Tensor, theta: Tensor, scores: Scores, message: Tensor, carried: Tensor
    ) -> Scores:
        """The derivative by the pairwise scores, summed over iterations; arrays `[iterations, …]`."""
        left, right = (None if x is None else torch.empty_like(x) for x in (scores.left, scores.right))
        result = Scores(left, right)
        arrays = (theta, scores.pointers(), message, carried, result.left, result.right)
        if self.on_gpu:
            self._launch("scores_backward", self.cells, self._problem, gamma, len(theta), *arrays)
        else:
            self._call("scores_backward", self._problem, gamma, len(theta), *arrays)
        return result

    def _totals(self, values: Tensor, count: int) -> Tensor:
        """Sums numbers of all chains, `count` of each, image by image; there is one chain per block."""
        sizes = [
            count * lines * sum(min(gap, length) for gap in self.gaps)
            for lines, length in zip(self.valid, self.lengths)
        ]
        return sum(part.view(self.images, -1).sum(1) for part in values.split(sizes))

    def _by_line(self, values: Tensor) -> Tensor:
        """A number of each image for each of its lines, `[lines, W]`."""
        parts = []
        for blocks, lines in zip(self.blocks, self.valid):
            part = values.new_zeros(blocks * self.lanes)
            part[:lines] = values.repeat_interleave(lines // self.images)
            parts.append(part.view(blocks, self.lanes))
        return torch.cat(parts)

    def _launch(self, kernel: str, blocks: int, *arguments: object) -> None:
        shared = shared_memory(self.labels, self.dtype)
        gpu.launch("chain", kernel, SCALARS[self.dtype], self.device, blocks, shared, arguments)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(cpu.library("chain"), f"{name}_{NAMES[self.dtype]}")
        function(*map(_converted, arguments), torch.get_num_threads())


def _converted(argument: object) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_longlong(argument) if isinstance(argument, int) else argument
