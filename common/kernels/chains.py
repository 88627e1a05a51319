"""Passes over all chains of a grid: messages and their derivatives, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from common.kernels.layout import Layout
from common.kernels.packing import PackedScores, Strided, scores_like


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
        dual = torch.empty(self.images, dtype=self.dtype)
        self.call("messages", self.problem, gamma, theta, scores.pointers(), message, dual)
        return dual

    def marginals(self, theta: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """Max-marginals in units of γ, `[gaps, cells, K, W]`, and their sum over chains `[N, K, h, w]`."""
        result, total = torch.empty_like(theta), self._total()
        self.call("marginals", self.problem, theta, message, result, total)
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
        self.call("collect", self.problem, by_message, by_marginals, by_theta, total)
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
        self.call("agree", self.problem, total, ctypes.c_double(step), base, values, out)
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
            by_message: One of `room_for_derivatives`, filled with that by the messages; `collect` makes of
                it the one by `theta`.

        Returns:
            Of each image the derivative by γ, in the scores' own units; meaningless unless wanted.
        """
        inputs = (gamma, int(by_gamma), by_maxima, theta, scores.pointers(), message, by_marginals)
        entropy = torch.empty(self.images, dtype=self.dtype)
        self.call("messages_backward", self.problem, *inputs, by_message, entropy)
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
        arrays = (gamma, len(theta), theta, scores.pointers(), message, by_message, Strided(*result))
        self.call("scores_backward", self.problem, *arrays)
        return result

    def room_for_derivatives(self, iterations: int) -> Tensor:
        """Room for what `messages_backward` leaves to `scores_backward`, `[iterations, …]`."""
        return self.new(iterations, 2, len(self.gaps), self.cells, self.labels)

    def _total(self) -> Tensor:
        """An empty map of a number for each label and cell, `[N, K, h, w]`."""
        size = (self.images, self.labels, self.height, self.width)
        return torch.empty(size, dtype=self.dtype, device=self.device)
