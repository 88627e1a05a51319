"""Dual decomposition of a grid into chains as one PyTorch operator; methods/ddcrf.py says what it computes.

For the backward pass the unary scores of the chains and the messages of every iteration are kept, 6G numbers
per cell, label and iteration for G gaps. Nothing is kept per pair of labels: the weights of the edges
follow from the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.kernels import backends
from common.kernels.batch import group_size
from common.kernels.chains import Grid
from common.kernels.layout import lanes
from common.kernels.packing import EXTRAS, scores_like
from common.kernels.steps import Steps, back_accelerated


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
        scores: As in `Layout.pack_scores`.
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
    place = (unary.shape, gaps, unary.dtype, unary.device)
    if accelerate:
        options = (factored, iterations, accelerate, keep)
        logits, duals, thetas, messages, course = _decompose(
            backends.grid(*place), unary, scores, gamma, *options
        )
        thetas, messages = thetas.unsqueeze(0), messages.unsqueeze(0)
    else:
        batch = backends.batch(*place, factored)
        logits, duals, thetas, messages = batch.decompose(unary, scores, gamma, iterations, keep)
        course = unary.new_empty(0, 2, len(unary))
    return logits, _unit(gamma) * duals.sum(1), thetas, messages, course


def _decompose(
    grid: Grid,
    unary: Tensor,
    scores: Sequence[Tensor],
    gamma: Tensor,
    factored: bool,
    iterations: int,
    accelerate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All iterations, kernel by kernel, because steps may depend on how the dual falls.

    Returns:
        As `dual_decomposition`, but for the dual in units of γ `[iterations, N]`, and unary scores and
        messages of all images together.
    """
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
        next_theta = thetas[n + 1 if keep else 0] if n + 1 < iterations else None
        dual = grid.messages(gamma, theta, packed, message)
        marginals, total = grid.marginals(theta, message)
        if steps is not None:
            dual = steps.judge(dual, theta, marginals, total)
            course.append(torch.stack([steps.accepted, steps.length]))
            total = steps.total
            if next_theta is not None:
                next_theta.copy_(steps.following(unit_step))
        elif next_theta is not None:
            grid.agree(marginals, total, unit_step, base=theta, out=next_theta)
        duals.append(dual)
    if steps is not None and not keep:
        thetas[0] = steps.theta
    history = torch.stack(course) if course else unary.new_empty(0, 2, grid.images)
    return (unit * total).contiguous(), torch.stack(duals), thetas, messages, history


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
    unary: Tensor,
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
    """The derivatives by all inputs of `dual_decomposition`.

    Args:
        unary: As given to the operator: only so that this depends on it, and second derivatives are refused.
        logits_gradient: The derivative by the logits, `[N, K, h, w]`.
        dual_gradient: That by the dual, `[iterations]`.
        scores: As given to the operator.
        gamma: γ.
        thetas: As returned by the operator, with `keep`.
        messages: As returned by the operator.
        course: As returned by the operator.
        gaps: As given to the operator.
        factored: As given to the operator.
        by_gamma: Whether the derivative by γ is wanted, which costs time.

    Returns:
        By unary scores, γ (0-dim, 0 unless `by_gamma`) and each of the pairwise scores.
    """
    layer = (logits_gradient.shape, gaps, thetas.dtype, thetas.device)
    if not len(course):
        batch = backends.batch(*layer, factored)
        unary, entropies, by_scores = batch.decompose_backward(
            logits_gradient, dual_gradient, scores, gamma, by_gamma, thetas, messages
        )
        return [unary, entropies.sum() if by_gamma else torch.zeros_like(gamma), *by_scores]
    grid, thetas, messages = backends.grid(*layer), thetas[0], messages[0]
    packed = grid.pack_scores(gamma, scores, factored, exact=by_gamma)
    by_messages = grid.room_for_derivatives(len(thetas))
    by_marginals = grid.pack(logits_gradient).expand_as(thetas[0]).contiguous()
    entropy = torch.zeros_like(gamma)

    def back(n: int, by_marginals: Tensor, by_maxima: Tensor, by_theta: Tensor) -> Tensor:
        """The way back through iteration n, a `steps.Back`."""
        nonlocal entropy
        place = (thetas[n], packed, messages[n], by_marginals, by_messages[n])
        by_image = grid.messages_backward(gamma, by_gamma, by_maxima, *place)
        if by_gamma:
            entropy = entropy + by_image.sum()
        return grid.collect(by_messages[n], by_marginals, by_theta)

    total = back_accelerated(grid, len(thetas), by_marginals, dual_gradient, course, back)
    by_scores = grid.scores_backward(gamma, thetas, packed, messages, by_messages, scores)
    unary = total.contiguous() / (2 * len(gaps))
    return [unary, entropy, *by_scores]


@dual_decomposition_backward.register_fake
def _(
    unary: Tensor,
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

    The arguments are those of `dual_decomposition`.

    Returns:
        The logits of the decomposition, and for the rows' chains of every gap, then the columns',
        max-marginals `[2G, N, K, h, w]`.
    """
    grid = backends.grid(unary.shape, gaps, unary.dtype, unary.device)
    options = (factored, iterations, accelerate, False)
    logits, _, thetas, messages, _ = _decompose(grid, unary, scores, gamma, *options)
    theta, message = thetas[0] * _unit(gamma), messages[0]
    # Long steps round away some of the unary scores; without them, the chains' maxima would be no bound.
    lacking = unary - grid.unpack_each(theta).double().sum(dim=0)
    theta = theta + grid.pack(lacking.to(theta.dtype)) / (2 * len(gaps))
    hard = -torch.ones_like(gamma)
    grid.messages(hard, theta, grid.pack_scores(hard, scores, factored, weigh=False), message)
    return logits, grid.unpack_each(grid.marginals(theta, message)[0])


def _unit(gamma: Tensor) -> Tensor:
    """The unit of scores in the kernels: γ, or 1 for the hard maximum."""
    return torch.where(gamma > 0, gamma, torch.ones_like(gamma))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keeps what the derivative needs."""
    unary, scores, gamma, ctx.gaps, ctx.factored, _, _, ctx.kept = inputs
    ctx.by_gamma = gamma.requires_grad
    _, _, thetas, messages, course = output
    ctx.save_for_backward(unary, gamma, thetas, messages, course, *scores)
    ctx.mark_non_differentiable(thetas, messages, course)
    ctx.set_materialize_grads(False)  # these three are large


def _backward(ctx: Any, logits: Tensor | None, dual: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    """The derivatives by all inputs of `dual_decomposition`."""
    if not ctx.kept:
        raise RuntimeError("the dual decomposition was computed without keeping what its gradient needs")
    unary, gamma, thetas, messages, course, *scores = ctx.saved_tensors
    options = (ctx.gaps, ctx.factored, ctx.by_gamma)
    logits = thetas.new_zeros(unary.shape) if logits is None else logits
    dual = thetas.new_zeros(thetas.shape[1]) if dual is None else dual
    by_unary, gamma, *scores = dual_decomposition_backward(
        unary, logits.contiguous(), dual, scores, gamma, thetas, messages, course, *options
    )
    return by_unary, scores, gamma, None, None, None, None, None


def _refuse(ctx: Any, *_: Tensor) -> None:
    """Refuses second derivatives."""
    raise RuntimeError(
        "second derivatives of the dual decomposition are not available: "
        "use methods.ddcrf.dual_decomposition_reference for them"
    )


dual_decomposition.register_autograd(_backward, setup_context=_keep)
dual_decomposition_backward.register_autograd(_refuse)
