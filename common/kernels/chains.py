"""Passes over all chains of a grid: messages and their derivatives, on the CPU and on CUDA devices.

The arrays that the kernels work on are packed: lines of the grid (its rows, then its columns, of all
images one after the other) in blocks of W, `[blocks, places along the line, …, W]`. W is the length of
the CPU's vectors, and 1 on CUDA. `cuda/chain.h` has the meaning of every array.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.kernels import cpu, gpu

MAX_GAPS = 64
MAX_SHARED = 99 * 1024
"""Bytes of shared memory that a block can have on every GPU from Ampere on."""

NAMES = {torch.float32: "float32", torch.float64: "float64"}
SCALARS = {torch.float32: "float", torch.float64: "double"}
CACHE = 2 * 1024 * 1024
"""Bytes of weights up to which images are computed one by one, or a few at a time, on the CPU."""

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


class _Plain(ctypes.Structure):
    """`Plain` in cuda/chain.cpp."""

    _fields_ = [("first", ctypes.c_void_p), ("stride", ctypes.c_longlong * 4)]


def _plain(*tensors: Tensor) -> ctypes.Array[_Plain]:
    """Tensors `[N, R, h, w]`, or pairwise scores `[N, K, K, h, w]`, as the CPU's kernels take them."""
    flat = [x.flatten(1, 2) if x.ndim == 5 else x for x in tensors]
    found = (_Plain * len(flat))(*(_Plain(x.data_ptr(), (ctypes.c_longlong * 4)(*x.stride())) for x in flat))
    found.alive = flat  # where labels could not be seen as one, these are copies
    return found


@torch.compiler.assume_constant_result
def available(device: torch.device, dtype: torch.dtype, labels: int, gaps: int) -> bool:
    """Whether there are kernels for a problem; compiles them at first use, warns once if it cannot."""
    if dtype not in NAMES:
        return False
    if gaps > MAX_GAPS or (device.type == "cuda" and shared_memory(labels, dtype) > MAX_SHARED):
        _warn_of_size(labels, gaps)
        return False
    if device.type == "cuda":
        return gpu.loadable("chain", SCALARS[dtype], device)
    return device.type == "cpu" and cpu.library("chain") is not None


@cache
def _warn_of_size(labels: int, gaps: int) -> None:
    warnings.warn(
        f"the plain PyTorch version is used, which is slower and needs more memory: {labels} classes and "
        f"{gaps} gaps are too many for the kernels",
        stacklevel=4,
    )


def shared_memory(labels: int, dtype: torch.dtype) -> int:
    """Bytes that a warp needs on the GPU; `scratch_size` in cuda/chain.h."""
    return (labels * ((labels | 1) + 6) + 32) * dtype.itemsize


def lanes(device: torch.device, dtype: torch.dtype) -> int:
    """W: how many chains one thread computes at a time."""
    if device.type != "cpu":
        return 1
    return getattr(cpu.library("chain"), f"lanes_{NAMES[dtype]}")()


def scores_like(scores: Tensor) -> Tensor:
    """An empty tensor like scores `[N, K, K, …]`, with their strides if both labels can be seen as one."""
    like = torch.empty_like(scores)
    if like.stride(1) == like.shape[2] * like.stride(2):
        return like
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Scores:
    """Pairwise scores, packed, and what the kernels make of them: `weights` in cuda/chain.h.

    Attributes:
        left: `[edges, K², W]`; or, factored, `[cells, K², W]` of the earlier ends; None where weights do.
        right: None; or `[cells, K², W]` of the later ends.
        left_weight: `[edges or cells, K² + 1, W]`; None of derivatives and hard maxima.
        right_weight: The same of `right`.
    """

    left: Tensor | None
    right: Tensor | None = None
    left_weight: Tensor | None = None
    right_weight: Tensor | None = None

    @property
    def factored(self) -> bool:
        """Which form the scores have."""
        return self.right is not None or self.right_weight is not None

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
        self.problem = _Problem(
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

    def pack_images(self, values: Tensor) -> Tensor:
        """A number of each image `[N]` at each of its cells, `[cells, 1, W]`."""
        lines = self.by_line(values).split(self.blocks)
        parts = [part.repeat_interleave(length, 0) for part, length in zip(lines, self.lengths)]
        return torch.cat(parts).unsqueeze(1)

    def by_line(self, values: Tensor) -> Tensor:
        """A number of each image `[…, N]` for each of its lines, `[…, blocks, W]`."""
        parts = []
        for blocks, lines in zip(self.blocks, self.valid):
            part = values.repeat_interleave(lines // self.images, -1)
            room = blocks * self.lanes - lines
            parts.append(torch.nn.functional.pad(part, (0, room)).unflatten(-1, (blocks, self.lanes)))
        return torch.cat(parts, -2)

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
        self, gamma: Tensor, scores: Sequence[Tensor], factored: bool, weigh: bool = True, exact: bool = False
    ) -> Scores:
        """Packs pairwise scores and weighs them.

        Args:
            gamma: γ, a 0-dim tensor.
            scores: Of all gaps `[N, K, K, h, w−g]`, then of all gaps `[N, K, K, h−g, w]`; or, factored,
                two maps `[N, K, K, h, w]` of the earlier and of the later ends.
            factored: Which of the two.
            weigh: Whether a soft maximum is wanted, which needs weights.
            exact: Whether the scores themselves are needed even where their weights would do.
        """
        size, labels, sides = self._size(factored), self.labels**2, 1 + factored
        packed = [self.new(size, labels) for _ in range(sides)] + [None] * (2 - sides)
        weights = [self.new(size, labels + 1) for _ in range(sides)] + [None] * (2 - sides)
        room = Scores(*packed, *weights)
        if not self.on_gpu:
            pointers = room.pointers()
            options = (int(factored), int(weigh), int(exact))
            self.call("pack_scores", self.problem, gamma, _plain(*scores), *options, pointers)
            return Scores(*(x if getattr(pointers, name) else None for name, x in vars(room).items()))
        for side, whole in enumerate([[x] for x in scores] if factored else [scores]):
            for part, plain in self._parts(packed[side], whole, factored):
                self._plainly(part, plain).copy_(plain)
            if weigh and size:  # a grid of one cell has no edges
                self._launch("weigh", size, self.labels, gamma, packed[side], weights[side])
        return room if weigh else Scores(*packed)

    def _size(self, factored: bool) -> int:
        return self.cells if factored else sum(self._edges())

    def _edges(self) -> list[int]:
        return [
            blocks * max(0, length - gap)
            for blocks, length in zip(self.blocks, self.lengths)
            for gap in self.gaps
        ]

    def _parts(
        self, packed: Tensor, scores: Sequence[Tensor], factored: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of the packed array, each with its scores as `[N, K², lines, places]`."""
        sizes = self.sizes if factored else self._edges()
        plain = 2 * [*scores] if factored else scores
        for index, (part, x) in enumerate(zip(packed.split(sizes), plain, strict=True)):
            if x.numel():
                x = x.flatten(1, 2)
                yield part, x.transpose(2, 3) if 2 * index >= len(sizes) else x

    def _pack(self, packed: Tensor, plain: Tensor) -> None:
        if self.on_gpu:
            self._plainly(packed, plain).copy_(plain)
            return
        self.call("pack", packed, plain, *plain.shape, (ctypes.c_longlong * 4)(*plain.stride()))

    def _unpack(self, plain: Tensor, packed: Tensor) -> None:
        if self.on_gpu:
            plain.copy_(self._plainly(packed, plain))
            return
        self.call("unpack", plain, packed, *plain.shape, (ctypes.c_longlong * 4)(*plain.stride()))

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
        arrays = (self.problem, gamma, theta, scores.pointers(), message)
        if self.on_gpu:
            maxima = self.new(self.chains)
            self._launch("messages", 2 * self.chains, *arrays, maxima)
            return self._totals(maxima, 1)
        dual = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self.call("messages", *arrays, dual)
        return dual

    def marginals(self, theta: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """Max-marginals in units of γ, `[gaps, cells, K, W]`, and their sum over chains `[N, K, h, w]`."""
        result, total = torch.empty_like(theta), self._total()
        self._at_every_cell("marginals", theta, message, result, total)
        return result, total

    def collect(self, carried: Tensor, given: Tensor, following: Tensor) -> Tensor:
        """Adds to `following` the derivative by the chains' unary scores, `carried[0] + carried[1] − given`.

        Returns:
            The sum of `following` over the chains of each cell, `[N, K, h, w]`.
        """
        total = self._total()
        self._at_every_cell("collect", carried, given, following, total)
        return total

    def agree(
        self,
        values: Tensor,
        total: Tensor,
        step: float,
        base: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """`base − step · (values − their mean over a cell's chains)`; this map is its own transpose.

        Args:
            values: `[gaps, cells, K, W]`.
            total: Their sum over the chains, as `marginals` or `collect` return it.
            step: A factor.
            base: Shaped as `values`; none is 0.
            out: What is filled, or None for something new.
        """
        out = torch.empty_like(values) if out is None else out
        self._at_every_cell("agree", total, ctypes.c_double(step), base, values, out)
        return out

    def _total(self) -> Tensor:
        # On the GPU neighbouring threads have neighbouring labels.
        n, k, h, w = self.images, self.labels, self.height, self.width
        shape = (n, h, w, k) if self.on_gpu else (n, k, h, w)
        plain = torch.empty(shape, dtype=self.dtype, device=self.device)
        return plain.permute(0, 3, 1, 2) if self.on_gpu else plain

    def _at_every_cell(self, name: str, *arguments: object) -> None:
        if self.on_gpu:
            threads = self.images * self.labels * self.height * self.width
            self._launch(name, -(-threads // 32), self.problem, *arguments)
        else:
            self.call(name, self.problem, *arguments)

    def messages_backward(
        self,
        gamma: Tensor,
        by_gamma: bool,
        weights: Tensor,
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
            weights: The derivative by the sum of maxima of each image, from `by_line`.
            theta: As given to `messages`.
            scores: As given to `messages`.
            message: As filled by it.
            given: The derivative by the max-marginals, `[gaps, cells, K, W]`.
            carried: Filled with that by the messages, `[2, gaps, cells, K, W]`; the one by `theta` is
                `carried[0] + carried[1] − given`.

        Returns:
            Of each image the derivative by γ, in the scores' own units; meaningless unless wanted.
        """
        known = (gamma, int(by_gamma), weights, theta, scores.pointers(), message, given)
        arrays = (self.problem, *known, carried)
        if self.on_gpu:
            entropies = self.new(2 * self.chains)
            self._launch("messages_backward", 2 * self.chains, *arrays, entropies)
            return self._totals(entropies, 2)
        entropy = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self.call("messages_backward", *arrays, entropy)
        return entropy

    def scores_backward(
        self,
        gamma: Tensor,
        theta: Tensor,
        scores: Scores,
        message: Tensor,
        carried: Tensor,
        like: Sequence[Tensor],
    ) -> list[Tensor]:
        """The derivative by the pairwise scores, summed over iterations; arrays `[iterations, …]`.

        Args:
            gamma: γ.
            theta: As given to `messages`.
            scores: As given to `messages`.
            message: As filled by it.
            carried: As filled by `messages_backward`.
            like: What was packed, for the shapes and strides of the result.
        """
        result = [scores_like(x) for x in like]
        arrays = (self.problem, gamma, len(theta), theta, scores.pointers(), message, carried)
        if not self.on_gpu:
            self.call("scores_backward", *arrays, _plain(*result))
            return result
        size = (self._size(scores.factored), self.labels**2)
        packed = [self.new(*size), self.new(*size) if scores.factored else None]
        self._launch("scores_backward", self.cells, *arrays, *packed)
        if not scores.factored:
            for part, x in self._parts(packed[0], result, factored=False):
                self._unpack(x, part)
            return result
        for x, both in zip(result, packed):
            rows, columns = both.split(self.sizes)
            x = x.flatten(1, 2)
            self._unpack(x, rows)
            x = x.transpose(2, 3)
            x.add_(self._plainly(columns, x))
        return result

    def _totals(self, values: Tensor, count: int) -> Tensor:
        """Sums numbers of all chains, `count` of each, image by image; there is one chain per block."""
        sizes = [
            count * lines * sum(min(gap, length) for gap in self.gaps)
            for lines, length in zip(self.valid, self.lengths)
        ]
        return sum(part.view(self.images, -1).sum(1) for part in values.split(sizes))

    def _launch(self, kernel: str, blocks: int, *arguments: object) -> None:
        shared = shared_memory(self.labels, self.dtype)
        gpu.launch("chain", kernel, SCALARS[self.dtype], self.device, blocks, shared, arguments)

    def call(self, name: str, *arguments: object) -> None:
        """Calls a kernel on the CPU."""
        function = getattr(cpu.library("chain"), f"{name}_{NAMES[self.dtype]}")
        function(*map(_converted, arguments), torch.get_num_threads())


class Batch:
    """A batch on the CPU, in groups of images that are computed from first to last in a processor's cache.

    Args:
        shape: N, K, h, w.
        gaps: Distances between neighbours on a chain.
        dtype: float32 or float64.
        factored: The form of the pairwise scores.
    """

    def __init__(self, shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, factored: bool) -> None:
        device = torch.device("cpu")
        self.shape = tuple(shape)
        self.factored = factored
        self.grid = Grid((group_size(shape, dtype), *shape[1:]), gaps, dtype, device)
        self.groups = -(-shape[0] // self.grid.images)

    def decompose(
        self, unary: Tensor, scores: Sequence[Tensor], gamma: Tensor, iterations: int, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All iterations of the published update.

        Args:
            unary: `[N, K, h, w]`.
            scores: As in `Grid.pack_scores`.
            gamma: γ, a 0-dim tensor.
            iterations: How many.
            keep: Whether to return what every iteration had.

        Returns:
            Logits `[N, K, h, w]`; the dual in units of γ `[iterations, N]`; unary scores of the chains and
            messages, `[groups, iterations or 1, …]` as a `Grid` of a group has them.
        """
        grid, slots = self.grid, iterations if keep else 1
        theta = grid.new(self.groups, slots, len(grid.gaps), grid.cells, grid.labels)
        message = grid.new(self.groups, slots, 2, len(grid.gaps), grid.cells, grid.labels + EXTRAS)
        logits, dual = unary.new_empty(self.shape), unary.new_empty(iterations, self.shape[0])
        options = (len(scores), int(self.factored), iterations, int(keep))
        results = (theta, message, logits, dual)
        self._call("decompose", gamma, _plain(unary), _plain(*scores), *options, *results)
        return logits, dual, theta, message

    def back(
        self,
        logits: Tensor,
        dual: Tensor,
        scores: Sequence[Tensor],
        gamma: Tensor,
        by_gamma: bool,
        theta: Tensor,
        message: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The way back.

        Args:
            logits: The derivative by the logits, `[N, K, h, w]`.
            dual: That by the dual summed over images, in the scores' own units, `[iterations]`.
            scores: As given to `decompose`.
            gamma: γ.
            by_gamma: Whether the derivative by γ is wanted, which costs time.
            theta: As `decompose` returned it.
            message: Likewise.

        Returns:
            The derivatives by the unary scores, by γ of each image (meaningless unless wanted), and by the
            pairwise scores, in the layout of `scores`.
        """
        unary, entropy = logits.new_empty(self.shape), logits.new_zeros(self.shape[0])
        by_scores = [scores_like(x) for x in scores]
        given = (int(by_gamma), _plain(logits), dual.contiguous(), _plain(*scores))
        options = (len(scores), int(self.factored), theta.shape[1])
        results = (unary, _plain(*by_scores), entropy)
        self._call("decompose_backward", gamma, *given, *options, theta, message, *results)
        return unary, entropy, by_scores

    def _call(self, name: str, *arguments: object) -> None:
        self.grid.call(name, self.grid.problem, self.shape[0], *arguments)


def group_size(shape: Sequence[int], dtype: torch.dtype) -> int:
    """How many images of a batch `[N, K, h, w]` are computed together on the CPU.

    As few as fill the vectors, if their weights fit into a processor's cache; else all.
    """
    n, k, h, w = shape
    width = lanes(torch.device("cpu"), dtype)
    for images in range(1, n):
        cells = sum(-(-images * lines // width) * width * length for lines, length in ((h, w), (w, h)))
        if 2 * cells * (k * k + 1) * dtype.itemsize > CACHE:
            break
        if cells <= 1.1 * 2 * images * h * w:
            return images
    return n


def _converted(argument: object) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_longlong(argument) if isinstance(argument, int) else argument
