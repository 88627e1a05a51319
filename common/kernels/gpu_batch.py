"""All iterations of the dual decomposition of a batch on a GPU, in as few launches as the update needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from common.kernels.gpu_chains import GpuGrid
from common.kernels.packing import EXTRAS


class GpuBatch:
    """A batch on a GPU; `common.kernels.batch.Batch` is the same on the CPU, and has the arguments."""

    def __init__(
        self,
        shape: Sequence[int],
        gaps: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        factored: bool,
    ) -> None:
        """
        Args:
            shape: N, K, h, w.
            gaps: Distances between neighbours on a chain.
            dtype: float32 or float64.
            device: The GPU.
            factored: The form of the pairwise scores.
        """
        self.factored = factored
        self.grid = _grid(tuple(shape), tuple(gaps), dtype, device)
        self.step = 1 / max(self.grid.lengths)

    def decompose(
        self, unary: Tensor, scores: Sequence[Tensor], gamma: Tensor, iterations: int, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All iterations of the published update, as in `Batch.decompose`."""
        grid, slots = self.grid, iterations if keep else 1
        packed = grid.pack_scores(gamma, scores, self.factored)
        layer = (len(grid.gaps), grid.cells)
        theta = grid.new(slots, *layer, grid.labels)
        message = grid.new(slots, 2, *layer, grid.labels + EXTRAS)
        maxima = grid.new(iterations, grid.chains)
        grid.share_out(gamma, unary, True, theta[0])
        thetas, messages = theta.unbind(), message.unbind()
        for n, highest in enumerate(maxima.unbind()):
            here, sent = (thetas[n], messages[n]) if keep else (thetas[0], messages[0])
            grid.walk(gamma, here, packed, sent, highest)
            if n + 1 < iterations:
                grid.update(here, sent, self.step, thetas[n + 1] if keep else here)
        logits = grid.logits(gamma, here, sent)
        return logits, grid.totals(maxima, 1), theta.unsqueeze(0), message.unsqueeze(0)

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
        """The derivatives by all inputs of `decompose`, as in `Batch.decompose_backward`."""
        grid, (theta,), (message,) = self.grid, theta, message
        iterations, by_dual = len(theta), by_dual.contiguous()
        packed = grid.pack_scores(gamma, scores, self.factored, exact=by_gamma)
        by_message = grid.room_for_derivatives(iterations)
        by_marginals, by_theta = (torch.empty_like(theta[0]) for _ in range(2))
        carried = grid.new(2, len(grid.gaps), grid.cells, grid.labels)
        entropies = grid.new(iterations, 2 * grid.chains)
        grid.share_out(gamma, by_logits, False, by_marginals)
        by_unary: Tensor | None = None
        arrays = (theta, message, by_message, by_dual, entropies)
        for n, (here, sent, factors, falling, parts) in reversed(
            [*enumerate(zip(*(x.unbind() for x in arrays)))]
        ):
            place = (here, packed, sent, by_marginals, factors)
            grid.walk_back(gamma, by_gamma, falling, False, *place, carried, parts)
            step = self.step if n else None
            by_unary = grid.turn(carried, by_marginals, by_theta, n + 1 == iterations, step)
        assert by_unary is not None, "there is at least one iteration"
        by_scores = grid.scores_backward(gamma, theta, packed, message, by_message, scores)
        by_image = grid.totals(entropies, 2).sum(0) if by_gamma else entropies.new_empty(grid.images)
        return by_unary, by_image, by_scores


@lru_cache(maxsize=16)
def _grid(shape: tuple[int, ...], gaps: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> GpuGrid:
    """The grid of a batch: to describe it anew at every call would cost more than to start a kernel."""
    return GpuGrid(shape, gaps, dtype, device)
