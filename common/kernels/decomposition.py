"""Dual decomposition of a grid into chains as one PyTorch operator; methods/ddcrf.py says what it computes.

For the backward pass the unary scores of the chains and the messages of every iteration are kept, 6G numbers
per cell, label and iteration for G gaps. Nothing is kept per pair of labels: the weights of the edges
follow from the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from common.kernels.chains import EXTRAS, Batch, Grid, group_size, lanes, scores_like


@torch.library.custom_op("structseg::dual_decomposition", mutates_args=())
def dual_decomposition(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    accelerate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator; arguments must have been checked and be of one dtype, float32 or float64.

    Args:
        unary: `[N, K, h, w]`.
        scores: As in `Grid.pack_scores`.
        gamma: γ, a 0-dim tensor.
        gaps: Distances between neighbours on a chain.
        factored: Which form `scores` has.
        iterations: Number of passes over the chains.
        accelerate: Whether to take the safeguarded longer steps of `Steps`.
        keep: Whether to return what the backward pass needs.

    Returns:
        Logits `[N, K, h, w]`; the dual `[iterations]`; unary scores of the chains and messages of every
        iteration, unless `keep` of the last one, `[groups of images, iterations or 1, …]`; and if
        accelerated, which were accepted and the next steps, `[iterations, 2, N]`.
    """
    unit = _unit(gamma)
    grid = Grid(unary.shape, gaps, unary.dtype, unary.device)
    if accelerate or grid.on_gpu:
        logits, duals, thetas, messages, course = _decompose(
            grid, unary, scores, gamma, factored, iterations, accelerate, keep
        )
        thetas, messages = thetas.unsqueeze(0), messages.unsqueeze(0)
    else:
        batch = Batch(unary.shape, gaps, unary.dtype, factored)
        logits, duals, thetas, messages = batch.decompose(unary, scores, gamma, iterations, keep)
        course = unary.new_empty(0, 2, grid.images)
    return logits, unit * duals.sum(1), thetas, messages, course


def _decompose(
    grid: Grid,
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    factored: bool,
    iterations: int,
    accelerate: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """The same kernel by kernel: on the GPU, and where steps depend on what was found."""
    packed = grid.pack_scores(gamma, scores, factored)
    unit = _unit(gamma)
    k, layer, count = grid.labels, (len(grid.gaps), grid.cells), 2 * len(grid.gaps)
    slots = iterations if keep else 1
    thetas, messages = grid.new(slots, *layer, k), grid.new(slots, 2, *layer, k + EXTRAS)
    thetas[0] = grid.pack(unary / (unit * count))
    unit_step = 1 / max(grid.lengths)
    steps = Steps(grid) if accelerate else None
    duals, course = [], []
    for n in range(iterations):
        theta, message = (thetas[n], messages[n]) if keep else (thetas[0], messages[0])
        following = thetas[n + 1 if keep else 0] if n + 1 < iterations else None
        dual = grid.messages(gamma, theta, packed, message)
        marginals, total = grid.marginals(theta, message)
        if steps is not None:
            dual = steps.judge(dual, theta, marginals, total)
            course.append(torch.stack([steps.accepted, steps.length]))
            total = steps.total
            if following is not None:
                following.copy_(steps.following(unit_step))
        elif following is not None:
            grid.agree(marginals, total, unit_step, base=theta, out=following)
        duals.append(dual)
    if steps is not None and not keep:
        thetas[0] = steps.theta
    history = torch.stack(course) if course else unary.new_empty(0, 2, grid.images)
    return (unit * total).contiguous(), torch.stack(duals), thetas, messages, history


class Steps:
    """Longer steps than the published one, with momentum, for each image of a batch on its own.

    The published step, 1/max(h, w), is the longest that is safe for every problem. Here the first is
    twice that, and after every pass in which an image's dual has fallen its next step is half as long
    again and carries on 0.3 of the last one. Where the dual has risen instead, the image goes back to
    the best place it has had and takes a quarter of the step from there. Every place is compared
    with the best so far, so the dual never rises, and every pass counts as one iteration.

    For the backward pass what was accepted, and so every step, is taken as given.
    """

    FIRST, GROWTH, DECAY, MOMENTUM = 2.0, 1.5, 0.25, 0.3

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.dual: Tensor | None = None

    def judge(self, dual: Tensor, theta: Tensor, marginals: Tensor, total: Tensor) -> Tensor:
        """Keeps the new place of every image that it is better for; returns the best dual `[N]`."""
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


@dual_decomposition.register_fake
def _(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    accelerate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, k, h, w = unary.shape
    alone = accelerate or unary.device.type != "cpu"
    images = n if alone else group_size(unary.shape, unary.dtype)
    width = lanes(unary.device, unary.dtype)
    cells = -(-(images * h) // width) * w + -(-(images * w) // width) * h
    kept = (-(-n // images), iterations if keep else 1)
    return (
        torch.empty_like(unary, memory_format=torch.contiguous_format),
        unary.new_empty(iterations),
        unary.new_empty(*kept, len(gaps), cells, k, width),
        unary.new_empty(*kept, 2, len(gaps), cells, k + EXTRAS, width),
        unary.new_empty(iterations if accelerate else 0, 2, n),
    )


@torch.library.custom_op("structseg::dual_decomposition_backward", mutates_args=())
def dual_decomposition_backward(
    logits_gradient: Tensor,
    dual_gradient: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    thetas: Tensor,
    messages: Tensor,
    course: Tensor,
    gaps: Sequence[int],
    factored: bool,
    by_gamma: bool,
) -> list[Tensor]:
    """The derivatives by unary scores, γ (0-dim, 0 unless `by_gamma`) and each of the pairwise scores."""
    grid = Grid(logits_gradient.shape, gaps, thetas.dtype, thetas.device)
    if not (len(course) or grid.on_gpu):
        batch = Batch(logits_gradient.shape, gaps, thetas.dtype, factored)
        given = (logits_gradient, dual_gradient, scores, gamma, by_gamma)
        unary, entropy, by_scores = batch.back(*given, thetas, messages)
        return [unary, entropy.sum() if by_gamma else torch.zeros_like(gamma), *by_scores]
    thetas, messages = thetas[0], messages[0]
    packed = grid.pack_scores(gamma, scores, factored, exact=by_gamma)
    carried = torch.empty_like(messages[..., :-EXTRAS, :], memory_format=torch.contiguous_format)
    given = grid.pack(logits_gradient).expand_as(thetas[0]).contiguous()
    entropy = torch.zeros_like(gamma)

    def back(n: int, given: Tensor, weights: Tensor, following: Tensor) -> Tensor:
        """Adds the derivative by the unary scores of iteration n, through its marginals and maxima."""
        nonlocal entropy
        where = (thetas[n], packed, messages[n], given, carried[n])
        walked = grid.messages_backward(gamma, by_gamma, weights, *where)
        if by_gamma:
            entropy = entropy + walked.sum()
        return grid.collect(carried[n], given, following)

    way_back = _back_accelerated if len(course) else _back_published
    total = way_back(grid, len(thetas), given, dual_gradient, course, back)
    by_scores = grid.scores_backward(gamma, thetas, packed, messages, carried, scores)
    unary = total.contiguous() / (2 * len(gaps))
    return [unary, entropy, *by_scores]


def _back_published(
    grid: Grid, iterations: int, given: Tensor, dual: Tensor, _: Tensor, back: Callable[..., Tensor]
) -> Tensor:
    """The derivative by the first unary scores of the chains, summed over the chains `[N, K, h, w]`."""
    unit = 1 / max(grid.lengths)
    following = torch.zeros_like(given)  # the derivative by the unary scores of the next iteration
    weights = grid.by_line(dual.unsqueeze(1).expand(-1, grid.images))
    total: Tensor | None = None
    for n in reversed(range(iterations)):
        if total is not None:
            given = grid.agree(following, total, unit)
        total = back(n, given, weights[n], following)
    return total


def _back_accelerated(
    grid: Grid, iterations: int, given: Tensor, dual: Tensor, course: Tensor, back: Callable[..., Tensor]
) -> Tensor:
    """The same along the course that `Steps` took: the transpose of its `judge` and `following`."""
    unit = 1 / max(grid.lengths)
    by_marginals, by_best, by_next = given, torch.zeros_like(given), torch.zeros_like(given)
    by_dual = torch.zeros_like(course[0, 0])
    total: Tensor | None = None
    for n in reversed(range(iterations)):
        accepted, length = course[n]
        chosen, steps = grid.pack_images(accepted), grid.pack_images(length)
        by_best = by_best + by_next
        if total is not None:
            by_marginals = by_marginals + steps * grid.agree(by_next, total, unit)
        moved = chosen * Steps.MOMENTUM * by_next if n else torch.zeros_like(by_next)
        by_dual = by_dual + dual[n]
        by_next = moved + chosen * by_best
        total = back(n, chosen * by_marginals, grid.by_line(accepted * by_dual), by_next)
        by_best = (1 - chosen) * by_best - moved
        by_marginals = (1 - chosen) * by_marginals
        by_dual = (1 - accepted) * by_dual
    return total


@dual_decomposition_backward.register_fake
def _(
    logits_gradient: Tensor,
    dual_gradient: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    thetas: Tensor,
    messages: Tensor,
    course: Tensor,
    gaps: Sequence[int],
    factored: bool,
    by_gamma: bool,
) -> list[Tensor]:
    like = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (logits_gradient, gamma))
    return [*like, *map(scores_like, scores)]


@torch.no_grad()
def hard_marginals(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    accelerate: bool,
) -> tuple[Tensor, Tensor]:
    """The max-marginals under the hard maximum of the chains that the decomposition has arrived at.

    Returns:
        The logits of the decomposition, and for the rows' chains of every gap, then the columns',
        max-marginals `[2G, N, K, h, w]`.
    """
    grid = Grid(unary.shape, gaps, unary.dtype, unary.device)
    options = (factored, iterations, accelerate, False)
    logits, _, thetas, messages, _ = _decompose(grid, unary, scores, gamma, *options)
    theta, message = thetas[0] * _unit(gamma), messages[0]
    hard = -torch.ones_like(gamma)
    grid.messages(hard, theta, grid.pack_scores(hard, scores, factored, weigh=False), message)
    return logits, grid.unpack_each(grid.marginals(theta, message)[0])


def _unit(gamma: Tensor) -> Tensor:
    return torch.where(gamma > 0, gamma, torch.ones_like(gamma))


def _keep(ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
    _, scores, gamma, ctx.gaps, ctx.factored, _, _, ctx.kept = inputs
    ctx.by_gamma = gamma.requires_grad
    _, _, thetas, messages, course = output
    ctx.save_for_backward(gamma, thetas, messages, course, *scores)
    ctx.mark_non_differentiable(thetas, messages, course)
    ctx.set_materialize_grads(False)  # these three are large
    ctx.shape = inputs[0].shape


def _backward(ctx: FunctionCtx, logits: Tensor | None, dual: Tensor | None, *_: Tensor | None) -> tuple:
    if not ctx.kept:
        raise RuntimeError("the dual decomposition was computed without keeping what its gradient needs")
    gamma, thetas, messages, course, *scores = ctx.saved_tensors
    options = (ctx.gaps, ctx.factored, ctx.by_gamma)
    logits = thetas.new_zeros(ctx.shape) if logits is None else logits
    dual = thetas.new_zeros(thetas.shape[1]) if dual is None else dual
    unary, gamma, *scores = dual_decomposition_backward(
        logits.contiguous(), dual, scores, gamma, thetas, messages, course, *options
    )
    return unary, scores, gamma, None, None, None, None, None


def _refuse(ctx: FunctionCtx, *_: Tensor) -> None:
    raise RuntimeError(
        "second derivatives of the dual decomposition are not available: "
        "use methods.ddcrf.dual_decomposition_reference for them"
    )


dual_decomposition.register_autograd(_backward, setup_context=_keep)
dual_decomposition_backward.register_autograd(_refuse)
