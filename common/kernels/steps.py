"""How the unary scores of the chains move from one iteration to the next, and the way back along that course.

The published step, 1/max(h, w), is the longest that is safe for every problem. `Steps` takes longer ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.kernels.chains import Grid

Back = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""The derivative of iteration n by its unary scores, through its marginals and maxima.

Takes n, the derivative by its marginals `[gaps, cells, K, W]`, the one by its maxima from `Grid.by_line`, and
an array shaped as the first of these, to which the result is added. Returns the sum of that array over the
chains `[N, K, h, w]`.
"""


class Steps:
    """Longer steps than the published one, with momentum, for each image of a batch on its own.

    The first step is twice the published one, and after every pass in which an image's dual has fallen its
    next step is half as long again and carries on 0.3 of the last one. Where the dual has risen instead, the
    image goes back to the best place it has had and takes a quarter of the step from there. Every place is
    compared with the best so far, so the dual never rises, and every pass counts as one iteration.

    For the backward pass what was accepted, and so every step, is taken as given.

    Attributes:
        accepted: Whether the latest place was the best of each image so far, 1 or 0 `[N]`.
        length: The next step of each image, in published ones `[N]`.
        theta: The best place: unary scores of the chains, `[gaps, cells, K, W]`.
        total: The sum of its max-marginals over the chains, `[N, K, h, w]`.
    """

    FIRST, GROWTH, DECAY, MOMENTUM = 2.0, 1.5, 0.25, 0.3

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.dual: Tensor | None = None

    def judge(self, dual: Tensor, theta: Tensor, marginals: Tensor, total: Tensor) -> Tensor:
        """Keeps the new place of every image that it is better for; returns the best dual `[N]`.

        Args:
            dual: Of the new place, `[N]`.
            theta: The new place, `[gaps, cells, K, W]`.
            marginals: Its max-marginals, `[gaps, cells, K, W]`.
            total: Their sum over the chains, `[N, K, h, w]`.
        """
        if self.dual is None:
            self.accepted = torch.ones_like(dual)
            self.length = torch.full_like(dual, self.FIRST)
            self.dual, self.theta, self.marginals, self.total = dual, theta.clone(), marginals, total
            self.moved = torch.zeros_like(theta)
            return self.dual
        better = dual < self.dual
        self.accepted = better.to(dual.dtype)
        self.length = self.length * torch.where(better, self.GROWTH, self.DECAY)
        self.dual = torch.where(better, dual, self.dual)
        chosen = self.grid.pack_images(self.accepted) > 0
        self.moved = torch.where(chosen, theta - self.theta, 0)
        self.theta = torch.where(chosen, theta, self.theta)
        self.marginals = torch.where(chosen, marginals, self.marginals)
        self.total = torch.where(better.view(-1, 1, 1, 1), total, self.total)
        return self.dual

    def following(self, unit: float) -> Tensor:
        """The place to look at next, from the best one against the disagreement of its chains."""
        length = self.grid.pack_images(self.length)
        step = self.grid.agree(self.marginals, self.total, -unit)
        return self.theta - length * step + self.MOMENTUM * self.moved


def back_accelerated(
    grid: Grid, iterations: int, by_marginals: Tensor, by_dual: Tensor, course: Tensor, back: Back
) -> Tensor:
    """The derivative by the first unary scores of the chains, along the course that `Steps` took.

    It is the transpose of `Steps.judge` and `Steps.following`.

    Args:
        grid: The grid.
        iterations: How many there were.
        by_marginals: The derivative by the last max-marginals, `[gaps, cells, K, W]`.
        by_dual: That by the dual summed over images, `[iterations]`.
        course: Which places were accepted and the next steps, `[iterations, 2, N]`.
        back: The way back through one iteration.

    Returns:
        Summed over the chains, `[N, K, h, w]`.
    """
    unit = 1 / max(grid.lengths)
    by_best, by_next = torch.zeros_like(by_marginals), torch.zeros_like(by_marginals)
    by_best_dual = torch.zeros_like(course[0, 0])
    total: Tensor | None = None
    for n in reversed(range(iterations)):
        accepted, length = course[n]
        chosen, steps = grid.pack_images(accepted), grid.pack_images(length)
        by_best = by_best + by_next
        if total is not None:
            by_marginals = by_marginals + steps * grid.agree(by_next, total, unit)
        moved = chosen * Steps.MOMENTUM * by_next if n else torch.zeros_like(by_next)
        by_best_dual = by_best_dual + by_dual[n]
        by_next = moved + chosen * by_best
        total = back(n, chosen * by_marginals, grid.by_line(accepted * by_best_dual), by_next)
        by_best = (1 - chosen) * by_best - moved
        by_marginals = (1 - chosen) * by_marginals
        by_best_dual = (1 - accepted) * by_best_dual
    assert total is not None, "there is at least one iteration"
    return total
