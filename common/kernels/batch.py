"""A batch of images on the CPU, in groups that stay in a processor's cache through all iterations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.kernels.layout import Layout, lanes
from common.kernels.packing import EXTRAS, Strided, scores_like

CACHE = 2 * 1024 * 1024
"""Bytes of weights up to which images are computed one by one, or a few at a time."""


class Batch:
    """A batch on the CPU, in groups of images that are computed from first to last in a processor's cache."""

    def __init__(self, shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, factored: bool) -> None:
        """
        Args:
            shape: N, K, h, w.
            gaps: Distances between neighbours on a chain.
            dtype: float32 or float64.
            factored: The form of the pairwise scores.
        """
        self.shape = tuple(shape)
        self.factored = factored
        images = group_size(shape, dtype)
        self.layout = Layout((images, *shape[1:]), gaps, dtype, torch.device("cpu"))
        self.groups = -(-shape[0] // images)

    def decompose(
        self, unary: Tensor, scores: Sequence[Tensor], gamma: Tensor, iterations: int, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All iterations of the published update.

        Args:
            unary: `[N, K, h, w]`.
            scores: As in `Layout.pack_scores`.
            gamma: γ, a 0-dim tensor.
            iterations: How many.
            keep: Whether to return what every iteration had.

        Returns:
            Logits `[N, K, h, w]`; the dual in units of γ `[iterations, N]`; unary scores of the chains and
            messages, `[groups, iterations or 1, …]` as a `Grid` of a group has them.
        """
        layout, slots = self.layout, iterations if keep else 1
        sizes = (self.groups, slots)
        theta = layout.new(*sizes, len(layout.gaps), layout.cells, layout.labels)
        message = layout.new(*sizes, 2, len(layout.gaps), layout.cells, layout.labels + EXTRAS)
        logits, dual = unary.new_empty(self.shape), unary.new_empty(iterations, self.shape[0])
        options = (len(scores), int(self.factored), iterations, int(keep))
        results = (theta, message, logits, dual)
        self._call("decompose", gamma, Strided(unary), Strided(*scores), *options, *results)
        return logits, dual, theta, message

    def decompose_backward(
        self,
        by_logits: Tensor,
        by_dual: Tensor,
        scores: Sequence[Tensor],
        gamma: Tensor,
        by_gamma: bool,
        theta: Tensor,
        message: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The derivatives by all inputs of `decompose`.

        Args:
            by_logits: The derivative by the logits, `[N, K, h, w]`.
            by_dual: That by the dual summed over images, in the scores' own units, `[iterations]`.
            scores: As given to `decompose`.
            gamma: γ.
            by_gamma: Whether the derivative by γ is wanted, which costs time.
            theta: As `decompose` returned it.
            message: As `decompose` returned it.

        Returns:
            The derivatives by the unary scores, by γ of each image (meaningless unless wanted), and by the
            pairwise scores, in the layout of `scores`.
        """
        unary, entropy = by_logits.new_empty(self.shape), by_logits.new_zeros(self.shape[0])
        by_scores = [scores_like(x) for x in scores]
        inputs = (int(by_gamma), Strided(by_logits), by_dual.contiguous(), Strided(*scores))
        options = (len(scores), int(self.factored), theta.shape[1])
        results = (unary, Strided(*by_scores), entropy)
        self._call("decompose_backward", gamma, *inputs, *options, theta, message, *results)
        return unary, entropy, by_scores

    def _call(self, name: str, *arguments: object) -> None:
        """Calls a kernel for all images, group by group."""
        self.layout.call(name, self.layout.problem, self.shape[0], *arguments)


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
