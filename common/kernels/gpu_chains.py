"""The passes over all chains of a grid on a GPU: how the kernels of cuda/chain.cu are started."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from common.kernels import gpu
from common.kernels.chains import Grid
from common.kernels.layout import SCALARS
from common.kernels.packing import EXTRAS, PackedScores, Plain, plain, scores_like

PARTS = 16
"""Pairwise scores of so many gaps and axes are read by one launch; as in cuda/chain.cu."""

FEW = 128
"""Threads of a block where each has a number of its own; as in cuda/chain.cu."""


class _Sources(ctypes.Structure):
    """`Sources` in cuda/chain.cu."""

    _fields_ = [("left", Plain * PARTS), ("right", Plain * PARTS)]


class _Targets(ctypes.Structure):
    """`Targets` in cuda/chain.cu."""

    _fields_ = [("out", Plain * PARTS)]


class Ring(NamedTuple):
    """What the blocks of a walk along the chains have.

    Attributes:
        threads: Of a block.
        stages: How many edges of a chain are in shared memory at a time.
        shared: Bytes of shared memory of a block.
    """

    threads: int
    stages: int
    shared: int


@cache
def defines(labels: int) -> tuple[str, ...]:
    """The macros that cuda/chain.cu is compiled with for K labels."""
    return f"LABELS={labels}", f"LANES={_lanes(labels)}"


def fits(labels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a block of the GPU has shared memory enough for K labels."""
    return _bytes(labels, dtype, 3 * labels + EXTRAS, 3, 1, 1) <= gpu.limits(device).shared


def row_length(labels: int) -> int:
    """Numbers that the weights of an edge take; as in cuda/chain.cu."""
    return _padded(labels * (labels | 1) + 2)


def _padded(count: int) -> int:
    return (count + 3) // 4 * 4


def _lanes(labels: int) -> int:
    """How many threads walk along a chain."""
    return 16 if labels <= 16 else 32


def _bytes(labels: int, dtype: torch.dtype, numbers: int, buffers: int, warps: int, stages: int) -> int:
    """Shared memory of a block of warps; `memory_of_group` in cuda/chain.cu."""
    group = stages * (row_length(labels) + _padded(numbers)) + buffers * _padded(labels)
    return warps * 32 // _lanes(labels) * group * dtype.itemsize


@cache
def _ring(labels: int, dtype: torch.dtype, numbers: int, buffers: int, limit: int) -> Ring:
    """The most that leaves room for several blocks on a multiprocessor, or else for one.

    Args:
        labels: K.
        dtype: float32 or float64.
        numbers: What a chain's step needs beside the weights of its edge.
        buffers: How many arrays of K a walk needs.
        limit: Bytes of shared memory that a block can have.
    """
    for share in (4, 2, 1):
        for warps, stages in ((4, 4), (4, 2), (2, 2), (1, 2), (1, 1)):
            size = _bytes(labels, dtype, numbers, buffers, warps, stages)
            if size * share <= limit:
                return Ring(32 * warps, stages, size)
    raise ValueError(f"{labels} labels are too many for {limit} bytes of shared memory")


class GpuGrid(Grid):
    """A grid of chains and the passes over them on a GPU.

    Of `PackedScores` it knows `rows` alone.
    """

    def pack_scores(
        self, gamma: Tensor, scores: Sequence[Tensor], factored: bool, weigh: bool = True, exact: bool = False
    ) -> PackedScores:
        k, itemsize = self.labels, self.dtype.itemsize
        rows = torch.empty(self._places(False), row_length(k), dtype=self.dtype, device=self.device)
        maps = [_flat(x) for x in scores]
        tile = 4 if _rows_first(maps[0]) else 8
        while tile > 1 and tile * row_length(k) * itemsize > gpu.SHARED_BY_DEFAULT:
            tile //= 2
        shared = tile * row_length(k) * itemsize
        for first in range(0, 2 * len(self.gaps), PARTS):
            parts = range(first, min(first + PARTS, 2 * len(self.gaps)))
            sources = _Sources()
            for item, part in enumerate(parts):
                sources.left[item] = plain(maps[0] if factored else maps[part])
                if factored:
                    sources.right[item] = self._shifted(maps[1], part)
            options = (int(exact or not weigh), tile, first, sources, rows)
            self._launch("weigh", self._tiles(tile, len(parts)), 32 * max(4, tile), shared, gamma, *options)
        return PackedScores(rows=rows)

    def messages(self, gamma: Tensor, theta: Tensor, scores: PackedScores, message: Tensor) -> Tensor:
        maxima = self.new(self.chains)
        self.walk(gamma, theta, scores, message, maxima)
        return self.totals(maxima, 1)[0]

    def walk(
        self, gamma: Tensor, theta: Tensor, scores: PackedScores, message: Tensor, maxima: Tensor
    ) -> None:
        """Fills messages, as `messages` does, and the maximum of every chain."""
        self._walk("messages", self.labels, 1, gamma, theta, scores.rows, message, maxima)

    def marginals(self, theta: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        result, total = torch.empty_like(theta), self._total()
        self._each("marginals", None, theta, message, result, total, 0, *self._step(0), None)
        return result, total

    def update(self, theta: Tensor, message: Tensor, step: float, out: Tensor) -> None:
        """`theta − step · (marginals − their mean over a cell's chains)`, into `out` (or `theta`)."""
        self._each("marginals", None, theta, message, None, None, 0, *self._step(step), out)

    def logits(self, gamma: Tensor, theta: Tensor, message: Tensor) -> Tensor:
        """The sum of the marginals over a cell's chains in the scores' own units, `[N, K, h, w]`."""
        total = self._total()
        self._each("marginals", gamma, theta, message, None, total, 1, *self._step(0), None)
        return total

    def agree(
        self,
        values: Tensor,
        total: Tensor,
        step: float,
        base: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        out = torch.empty_like(values) if out is None else out
        self._each("agree", total, *self._step(step), base, values, out)
        return out

    def share_out(self, gamma: Tensor, maps: Tensor, scores: bool, out: Tensor) -> None:
        """The same for all chains.

        Args:
            gamma: γ.
            maps: `[N, K, h, w]`.
            scores: Whether these are scores: then each chain gets its share, in units of γ.
            out: What is filled, `[gaps, cells, K, 1]`.
        """
        _, fraction = self._step(0)
        self._each("share_out", gamma, int(scores), fraction, plain(maps), out)

    def room_for_derivatives(self, iterations: int) -> Tensor:
        # Of each iteration `pull` and `share` in cuda/chain.cu, where those of all iterations are together.
        size = (2, iterations, 2, len(self.gaps), self.cells, self.labels)
        return self.new(*size).transpose(0, 1)

    def messages_backward(
        self,
        gamma: Tensor,
        by_gamma: bool,
        by_maxima: Tensor,
        theta: Tensor,
        scores: PackedScores,
        message: Tensor,
        by_marginals: Tensor,
        by_message: Tensor,
    ) -> Tensor:
        entropies = self.new(2 * self.chains)
        place = (theta, scores, message, by_marginals, by_message)
        self.carried = self.new(2, len(self.gaps), self.cells, self.labels)  # until `collect`
        self.walk_back(gamma, by_gamma, by_maxima, True, *place, self.carried, entropies)
        return self.totals(entropies, 2)[0]

    def walk_back(
        self,
        gamma: Tensor,
        by_gamma: bool,
        by_maxima: Tensor,
        by_line: bool,
        theta: Tensor,
        scores: PackedScores,
        message: Tensor,
        by_marginals: Tensor,
        by_message: Tensor,
        carried: Tensor,
        entropies: Tensor,
    ) -> None:
        """Walks all chains back, as `messages_backward`.

        Args:
            gamma: As there.
            by_gamma: As there.
            by_maxima: The derivative by the maxima, from `by_line`, or a number for all chains.
            by_line: Which of the two.
            theta: As there.
            scores: As there.
            message: As there.
            by_marginals: As there.
            by_message: Filled with what `scores_backward` needs, one of `room_for_derivatives`.
            carried: Filled with the derivative by the messages, `[2, gaps, cells, K, 1]`.
            entropies: Filled with what every chain and direction has of the derivative by γ, `[2 · chains]`.
        """
        inputs = (int(by_gamma), by_maxima, int(by_line), theta, scores.rows, message, by_marginals)
        pull, share = by_message
        numbers = 3 * self.labels + EXTRAS
        self._walk("messages_backward", numbers, 3, gamma, *inputs, carried, pull, share, entropies)

    def collect(self, by_message: Tensor, by_marginals: Tensor, by_theta: Tensor) -> Tensor:
        total = self._total()
        self._each("collect", 0, self.carried, by_marginals, by_theta, total, 0, *self._step(0), None)
        return total

    def turn(
        self, carried: Tensor, by_marginals: Tensor, by_theta: Tensor, fresh: bool, step: float | None
    ) -> Tensor | None:
        """From the derivative by the messages of an iteration of the published update to the one before.

        Args:
            carried: As filled by `walk_back`.
            by_marginals: The derivative by the marginals of this iteration; then of the one before.
            by_theta: The derivative by the unary scores of the chains, which is added to.
            fresh: Whether it has nothing in it yet.
            step: Of the update; None if this is the first iteration.

        Returns:
            In the first iteration the mean of `by_theta` over a cell's chains, `[N, K, h, w]`.
        """
        total = self._total() if step is None else None
        following = None if step is None else by_marginals
        options = (total, 1, *self._step(step or 0), following)
        self._each("collect", int(fresh), carried, by_marginals, by_theta, *options)
        return total

    def scores_backward(
        self,
        gamma: Tensor,
        theta: Tensor,
        scores: PackedScores,
        message: Tensor,
        by_message: Tensor,
        like: Sequence[Tensor],
    ) -> list[Tensor]:
        result = [scores_like(x) for x in like]
        maps = [x.flatten(1, 2) for x in result]
        factored = [*maps[0].shape[2:]] == [self.height, self.width]
        k, iterations = self.labels, len(theta)
        units = k * _padded(k) // 4  # of a cell, each of which has a thread
        tile = max(1, min(8, (FEW if _rows_first(maps[0]) else 4 * FEW) // units))
        # As many parts, and of these as many iterations at a time, as there is room for.
        room = gpu.SHARED_BY_DEFAULT // 2 // (tile * self.dtype.itemsize) // (4 * _padded(k))
        parts = max(1, min(2 * len(self.gaps), room)) if factored else 1
        some = max(1, min(iterations, room // parts))
        shared = tile * (parts * some * 4 * _padded(k) + 4) * self.dtype.itemsize
        shared += (tile * parts + 1) // 2 * 16
        threads = min(4 * FEW, -(-tile * units // 32) * 32)
        arrays = (theta, scores.rows, message, *by_message.transpose(0, 1))
        for first in range(0, 2 * len(self.gaps), parts if factored else PARTS):
            out = maps if factored else maps[first : first + PARTS]
            targets = _Targets((Plain * PARTS)(*map(plain, out)))
            count = min(parts, 2 * len(self.gaps) - first)
            options = (iterations, some, int(factored), tile, first, count, *arrays, targets)
            blocks = self._tiles(tile, len(out))
            self._launch("scores_backward", blocks, threads, shared, gamma, *options)
        return result

    def totals(self, values: Tensor, each: int) -> Tensor:
        """Sums numbers of all chains, `each` of every one and `[iterations, …]`, image by image."""
        iterations = values.numel() // (each * self.chains)
        sums = torch.empty(iterations, self.images, dtype=self.dtype, device=self.device)
        self._launch("totals", (self.images, iterations), FEW, 0, each, values, sums)
        return sums

    def _walk(self, kernel: str, numbers: int, buffers: int, *arguments: object) -> None:
        """Starts a kernel that walks along every chain in both directions."""
        ring = _ring(self.labels, self.dtype, numbers, buffers, gpu.limits(self.device).shared)
        blocks = -(-2 * self.chains // (ring.threads // _lanes(self.labels)))
        self._launch(kernel, blocks, ring.threads, ring.shared, ring.stages, *arguments)

    def _each(self, kernel: str, *arguments: object) -> None:
        """Starts a kernel that looks at every label of every cell by itself."""
        blocks = (-(-self.width * self.labels // FEW), self.height, self.images)
        self._launch(kernel, blocks, FEW, 0, *arguments)

    def _launch(
        self, kernel: str, blocks: int | tuple[int, ...], threads: int, shared: int, *arguments: object
    ) -> None:
        scalar = SCALARS[self.dtype]
        inputs = (self.problem, *arguments)
        gpu.launch(
            "chain", kernel, scalar, self.device, blocks, shared, inputs, threads, defines(self.labels)
        )

    def _step(self, step: float) -> tuple[ctypes.c_double, ctypes.c_double]:
        """A step as kernels take it, and the share of one of a cell's chains in a mean."""
        return ctypes.c_double(step), ctypes.c_double(1 / (2 * len(self.gaps)))

    def _tiles(self, size: int, parts: int) -> tuple[int, int, int]:
        """The blocks of a kernel that takes `size` neighbouring cells at a time, for each of some parts."""
        return parts * -(-self.width // size), self.height, self.images

    def _shifted(self, maps: Tensor, part: int) -> Plain:
        """Maps seen from the earlier end of the edges of a part."""
        axis, gap = part // len(self.gaps), self.gaps[part % len(self.gaps)]
        shifted = plain(maps)
        shifted.first += gap * maps.stride(3 - axis) * maps.element_size()
        return shifted

    def _pack(self, packed: Tensor, maps: Tensor) -> None:
        self._as_maps(packed, maps).copy_(maps)

    def _unpack(self, maps: Tensor, packed: Tensor) -> None:
        maps.copy_(self._as_maps(packed, maps))

    @staticmethod
    def _as_maps(packed: Tensor, maps: Tensor) -> Tensor:
        """A packed array with one line per block as `[N, R, lines, places]`, which is how `maps` is."""
        n, rows, lines, places = maps.shape
        return packed.view(n, lines, places, rows).permute(0, 3, 1, 2)


def _flat(scores: Tensor) -> Tensor:
    """Pairwise scores `[N, K, K, …]` with both labels as one; a copy where strides do not let them be."""
    return scores.flatten(1, 2)


def _rows_first(maps: Tensor) -> bool:
    """Whether what a cell has lies closer together in memory than the cells of a row do."""
    return maps.stride(1) <= maps.stride(3)
