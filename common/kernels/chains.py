"""Passes over all chains of a grid: messages and their derivatives, on the CPU and on CUDA devices."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from common.kernels import cpu, gpu
from common.kernels.layout import NAMES, SCALARS, Layout, shared_memory
from common.kernels.packing import MAX_GAPS, PackedScores, Strided, scores_like

MAX_SHARED = 99 * 1024
"""Bytes of shared memory that a block can have on every GPU from Ampere on."""


def available(device: torch.device, dtype: torch.dtype, labels: int, gaps: int) -> bool:
    """Whether there are kernels for a problem; compiles them at first use, warns once if it cannot."""
    if dtype not in NAMES:
        return False
    if gaps > MAX_GAPS or (device.type == "cuda" and shared_memory(labels, dtype) > MAX_SHARED):
        _warn_of_size(labels, gaps)
        return False
    return _loadable(device, dtype)


@torch.compiler.assume_constant_result
def _loadable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels for a device and type can be loaded; compiles them at first use."""
    if device.type == "cuda":
        return gpu.loadable("chain", SCALARS[dtype], device)
    return device.type == "cpu" and cpu.library("chain") is not None


@cache
def _warn_of_size(labels: int, gaps: int) -> None:
    """Warns once that a problem is too large for the kernels."""
    warnings.warn(
        f"the plain PyTorch version is used, which is slower and needs more memory: {labels} classes and "
        f"{gaps} gaps are too many for the kernels",
        stacklevel=4,
    )


class Grid(Layout):
    """A grid of chains and the passes over them."""

    def messages(self, gamma: Tensor, theta: Tensor, scores: PackedScores, message: Tensor) -> Tensor:
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
            self.launch("messages", 2 * self.chains, *arrays, maxima)
            return self._totals(maxima, 1)
        dual = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self.call("messages", *arrays, dual)
        return dual

    def marginals(self, theta: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """Max-marginals in units of γ, `[gaps, cells, K, W]`, and their sum over chains `[N, K, h, w]`."""
        result, total = torch.empty_like(theta), self._total()
        self._at_every_cell("marginals", theta, message, result, total)
        return result, total

    def collect(self, by_message: Tensor, by_marginals: Tensor, by_theta: Tensor) -> Tensor:
        """Adds to `by_theta` the derivative by the unary scores of the chains of one iteration.

        It is `by_message[0] + by_message[1] − by_marginals`.

        Args:
            by_message: As filled by `messages_backward`.
            by_marginals: As given to it.
            by_theta: What is added to, `[gaps, cells, K, W]`.

        Returns:
            The sum of `by_theta` over the chains of each cell, `[N, K, h, w]`.
        """
        total = self._total()
        self._at_every_cell("collect", by_message, by_marginals, by_theta, total)
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
        """Walks all chains back.

        Args:
            gamma: γ.
            by_gamma: Whether the derivative by γ is wanted, which costs time.
            by_maxima: The derivative by the sum of maxima of each image, from `by_line`.
            theta: As given to `messages`.
            scores: As given to `messages`.
            message: As filled by it.
            by_marginals: The derivative by the max-marginals, `[gaps, cells, K, W]`.
            by_message: Filled with that by the messages, `[2, gaps, cells, K, W]`; `collect` makes of it
                the one by `theta`.

        Returns:
            Of each image the derivative by γ, in the scores' own units; meaningless unless wanted.
        """
        inputs = (gamma, int(by_gamma), by_maxima, theta, scores.pointers(), message, by_marginals)
        arrays = (self.problem, *inputs, by_message)
        if self.on_gpu:
            entropies = self.new(2 * self.chains)
            self.launch("messages_backward", 2 * self.chains, *arrays, entropies)
            return self._totals(entropies, 2)
        entropy = torch.empty(self.images, dtype=self.dtype, device=self.device)
        self.call("messages_backward", *arrays, entropy)
        return entropy

    def scores_backward(
        self,
        gamma: Tensor,
        theta: Tensor,
        scores: PackedScores,
        message: Tensor,
        by_message: Tensor,
        like: Sequence[Tensor],
    ) -> list[Tensor]:
        """The derivative by the pairwise scores, summed over iterations; arrays `[iterations, …]`.

        Args:
            gamma: γ.
            theta: As given to `messages`.
            scores: As given to `messages`.
            message: As filled by it.
            by_message: As filled by `messages_backward`.
            like: What was packed, for the shapes and strides of the result.
        """
        result = [scores_like(x) for x in like]
        arrays = (self.problem, gamma, len(theta), theta, scores.pointers(), message, by_message)
        if not self.on_gpu:
            self.call("scores_backward", *arrays, Strided(*result))
            return result
        sides = 2 if scores.factored else 1
        packed = [self.new(self._places(scores.factored), self.labels**2) for _ in range(sides)]
        none = [None] * (2 - sides)
        self.launch("scores_backward", self.cells, *arrays, *packed, *none)
        self.unpack_scores(packed, result)
        return result

    def _total(self) -> Tensor:
        """An empty map of a number for each label and cell, `[N, K, h, w]`."""
        # On the GPU neighbouring threads have neighbouring labels.
        n, k, h, w = self.images, self.labels, self.height, self.width
        shape = (n, h, w, k) if self.on_gpu else (n, k, h, w)
        total = torch.empty(shape, dtype=self.dtype, device=self.device)
        return total.permute(0, 3, 1, 2) if self.on_gpu else total

    def _at_every_cell(self, name: str, *arguments: object) -> None:
        """Calls a kernel that looks at every label of every cell by itself."""
        if self.on_gpu:
            threads = self.images * self.labels * self.height * self.width
            self.launch(name, -(-threads // 32), self.problem, *arguments)
        else:
            self.call(name, self.problem, *arguments)

    def _totals(self, values: Tensor, count: int) -> Tensor:
        """Sums numbers of all chains, `count` of each, image by image; there is one chain per block."""
        sizes = [
            count * lines * sum(min(gap, length) for gap in self.gaps)
            for lines, length in zip(self.valid, self.lengths)
        ]
        rows, columns = (part.view(self.images, -1).sum(1) for part in values.split(sizes))
        return rows + columns
