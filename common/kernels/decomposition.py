"""Dual decomposition of a grid into chains as one PyTorch operator; methods/ddcrf.py says what it computes.

For the backward pass the unary scores of the chains and the messages of every iteration are kept, 6G numbers
per cell, label and iteration for G gaps. Nothing is kept per pair of labels: the weights of the edges
follow from the messages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from common.kernels.chains import Grid, lanes


@torch.library.custom_op("structseg::dual_decomposition", mutates_args=())
def dual_decomposition(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator; arguments must have been checked and be of one dtype, float32 or float64.

    Args:
        unary: `[N, K, h, w]`.
        scores: As in `Grid.pack_scores`.
        gamma: γ, a 0-dim tensor.
        gaps: Distances between neighbours on a chain.
        factored: Which form `scores` has.
        iterations: Number of updates.
        keep: Whether to return what the backward pass needs.

    Returns:
        Logits `[N, K, h, w]`, the dual `[iterations]`, and packed unary scores and messages of every
        iteration; of the last one alone, unless `keep`.
    """
    grid = Grid(unary.shape, gaps, unary.dtype, unary.device)
    packed = grid.pack_scores(scores, factored)
    unit = _unit(gamma)
    k, layer = grid.labels, (len(gaps), grid.cells)
    slots = iterations if keep else 1
    thetas, messages = grid.new(slots, *layer, k), grid.new(slots, 2, *layer, k + 2)
    thetas[0] = grid.pack(unary / (unit * 2 * len(gaps)))
    step = 1 / max(grid.lengths)
    duals = []
    for iteration in range(iterations):
        theta, message = (thetas[iteration], messages[iteration]) if keep else (thetas[0], messages[0])
        duals.append(grid.messages(gamma, theta, packed, message))
        marginals = grid.marginals(theta, message)
        total = grid.unpack(marginals.sum(0))
        if iteration + 1 < iterations:
            marginals -= grid.pack(total / (2 * len(gaps)))
            torch.sub(theta, marginals, alpha=step, out=thetas[iteration + 1 if keep else 0])
    return unit * total, unit * torch.stack(duals), thetas, messages


@dual_decomposition.register_fake
def _(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, k, h, w = unary.shape
    width = lanes(unary.device, unary.dtype)
    cells = -(-(n * h) // width) * w + -(-(n * w) // width) * h
    slots = iterations if keep else 1
    return (
        torch.empty_like(unary, memory_format=torch.contiguous_format),
        unary.new_empty(iterations),
        unary.new_empty(slots, len(gaps), cells, k, width),
        unary.new_empty(slots, 2, len(gaps), cells, k + 2, width),
    )


@torch.library.custom_op("structseg::dual_decomposition_backward", mutates_args=())
def dual_decomposition_backward(
    logits_gradient: Tensor,
    dual_gradient: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    thetas: Tensor,
    messages: Tensor,
    gaps: Sequence[int],
    factored: bool,
) -> list[Tensor]:
    """The derivatives by unary scores, γ (a 0-dim tensor) and each of the pairwise scores, in this order."""
    grid = Grid(logits_gradient.shape, gaps, thetas.dtype, thetas.device)
    packed = grid.pack_scores(scores, factored)
    iterations, count = len(thetas), 2 * len(gaps)
    step = 1 / max(grid.lengths)
    carried = torch.empty_like(messages[..., :-2, :], memory_format=torch.contiguous_format)
    given = grid.pack(logits_gradient).expand_as(thetas[0]).contiguous()
    following: Tensor | None = None  # the derivative by the unary scores of the next iteration
    entropy = torch.zeros_like(gamma)
    for n in reversed(range(iterations)):
        if following is not None:
            mean = grid.pack(grid.unpack(following.sum(0)) / count)
            given = step * (mean - following)
        entropy += grid.messages_backward(
            gamma, dual_gradient[n].contiguous(), thetas[n], packed, messages[n], given, carried[n]
        )
        here = carried[n, 0] + carried[n, 1] - given
        following = here if following is None else following + here
    result = grid.scores_backward(gamma, thetas, packed, messages, carried)
    unary = grid.unpack(following.sum(0)) / count
    return [unary, entropy, *grid.unpack_scores(result, scores)]


@dual_decomposition_backward.register_fake
def _(
    logits_gradient: Tensor,
    dual_gradient: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    thetas: Tensor,
    messages: Tensor,
    gaps: Sequence[int],
    factored: bool,
) -> list[Tensor]:
    like = (logits_gradient, gamma, *scores)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in like]


@torch.no_grad()
def hard_marginals(
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """The max-marginals under the hard maximum of the chains that the last iteration has arrived at.

    Returns:
        The logits of the decomposition, and for the rows' chains of every gap, then the columns',
        max-marginals `[2G, N, K, h, w]`.
    """
    logits, _, thetas, messages = dual_decomposition(unary, scores, gamma, gaps, factored, iterations, False)
    grid = Grid(unary.shape, gaps, unary.dtype, unary.device)
    theta, message = thetas[0] * _unit(gamma), messages[0]
    grid.messages(-torch.ones_like(gamma), theta, grid.pack_scores(scores, factored), message)
    return logits, grid.unpack_each(grid.marginals(theta, message))


def _unit(gamma: Tensor) -> Tensor:
    return torch.where(gamma > 0, gamma, torch.ones_like(gamma))


def _keep(ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
    _, scores, gamma, ctx.gaps, ctx.factored, _, ctx.kept = inputs
    _, _, thetas, messages = output
    ctx.save_for_backward(gamma, thetas, messages, *scores)
    ctx.mark_non_differentiable(thetas, messages)


def _backward(ctx: FunctionCtx, logits: Tensor, dual: Tensor, *_: Tensor) -> tuple:
    if not ctx.kept:
        raise RuntimeError("the dual decomposition was computed without keeping what its gradient needs")
    gamma, thetas, messages, *scores = ctx.saved_tensors
    unary, gamma, *scores = dual_decomposition_backward(
        logits.contiguous(), dual, scores, gamma, thetas, messages, ctx.gaps, ctx.factored
    )
    return unary, scores, gamma, None, None, None, None


def _refuse(ctx: FunctionCtx, *_: Tensor) -> None:
    raise RuntimeError(
        "second derivatives of the dual decomposition are not available: "
        "use methods.ddcrf.dual_decomposition_reference for them"
    )


dual_decomposition.register_autograd(_backward, setup_context=_keep)
dual_decomposition_backward.register_autograd(_refuse)
