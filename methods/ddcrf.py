"""A grid CRF trained end to end by differentiable dual decomposition ("DD-CRF").

Wang et al. 2019, "End-to-end Training of CNN-CRF via Differentiable Dual-Decomposition", arXiv
1912.02937. Cells of the output grid are joined to their neighbours at distance (gap) 1 and 2, along
rows and along columns. For every gap g the rows and columns of each of the g² sub-grids are chains,
so a cell lies on 2G chains for G gaps. Each chain starts with its share θ/(2G) of the unary scores θ.
One iteration computes on every chain the soft max-marginals

    μᵢ(k) = γ · log Σ_{x: xᵢ=k} exp(score(x) / γ)          (γ ≤ 0: the hard maximum)

by a forward and a backward pass, and moves the chains towards agreement:

    θ_c ← θ_c − α (μ_c − mean over the cell's chains of μ),   α = 1 / max(h, w).

The logits are Σ_c μ_c of the last iteration, trained by cross-entropy. The dual,
Σ_chains γ·log Σₖ exp(μ(k)/γ) at any one cell of each chain, never rises.

The published code has 21 labels compiled in and keeps K² numbers per edge and iteration for the backward
pass. Here kernels for any K (`cuda/chain.h`, `common/kernels/`) keep the messages alone;
`dual_decomposition_reference` is the same in plain PyTorch, and the definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.kernels import chains
from common.kernels import decomposition as operators
from methods.base import Method


class DDCRF(Method):
    """A CRF layer on the unary scores; the pairwise scores are read from the features.

    The pairwise score of two neighbouring cells i and j is one 1×1 convolution of [fᵢ; fⱼ] to K²
    numbers, shared by both directions and all gaps, and so the sum of a map of i and a map of j.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        gaps: int = 2,
        gamma: float = 2.0,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            iterations: Updates of the dual, at least 1. The paper: 5 with ASPP, 15 without.
            gaps: Number of gaps G, at least 1; neighbours lie 1, …, G cells apart.
            gamma: γ, how soft the maximum is; 0 or less for the hard maximum.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if gaps < 1:
            raise ValueError(f"gaps must be at least 1, not {gaps!r}")
        _check(iterations, gamma)
        self.iterations = iterations
        self.gaps = gaps
        self.gamma = gamma
        self.left = nn.Conv2d(feature_channels, num_classes**2, 1)
        self.right = nn.Conv2d(feature_channels, num_classes**2, 1, bias=False)
        for layer in (self.left, self.right):
            nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(self.left.bias)

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        k = self.num_classes
        left = self.left(features).unflatten(1, (k, k))
        right = self.right(features).unflatten(1, (k, k))
        gaps = range(1, self.gaps + 1)
        # Mixed precision may give the three different types.
        dtype = torch.promote_types(torch.promote_types(unary.dtype, left.dtype), torch.float32)
        unary, left, right = (x.to(dtype) for x in (unary, left, right))
        return dual_decomposition_factored(
            unary, left, right, gaps, iterations=self.iterations, gamma=self.gamma
        ).logits


@dataclass(frozen=True)
class DualDecomposition:
    """What `dual_decomposition` returns.

    Attributes:
        logits: Σ over the chains of a cell of μ in the last iteration, `[N, K, h, w]`.
        dual: The dual of every iteration, summed over the batch, `[iterations]`.
    """

    logits: Tensor
    dual: Tensor


def dual_decomposition(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    *,
    iterations: int = 5,
    gamma: float | Tensor = 2.0,
) -> DualDecomposition:
    """Approximate inference in a grid CRF by dual decomposition into chains.

    Half precision is computed in float32. Differentiable once in all tensors; the results of two calls
    are the same bit by bit. Kernels are compiled at the first call; where that is impossible, the plain
    version `dual_decomposition_reference` is used, with a warning.

    Args:
        unary: Scores of the labels of each cell, `[N, K, h, w]`.
        horizontal: Item g−1 scores the labels of cells (r, c) and (r, c+g): `[N, K, K, h, max(0, w−g)]`.
        vertical: Item g−1 scores the labels of cells (r, c) and (r+g, c): `[N, K, K, max(0, h−g), w]`.
        iterations: Number of updates, at least 1.
        gamma: γ in the units of the scores, a number or a 0-dim tensor; 0 or less for the hard maximum.

    Returns:
        The logits and the dual of every iteration. No iteration is skipped.

    Raises:
        ValueError: A shape, type, device or value does not fit.
    """
    _check(iterations, gamma)
    _check_shapes(unary, horizontal, vertical)
    gaps = range(1, len(horizontal) + 1)
    scores = [*horizontal, *vertical]
    _check_kinds(unary, scores, gamma)
    if not _has_kernels(unary, gaps):
        return dual_decomposition_reference(unary, horizontal, vertical, iterations=iterations, gamma=gamma)
    return _by_kernels(unary, scores, gaps, False, iterations, gamma)


def dual_decomposition_factored(
    unary: Tensor,
    left: Tensor,
    right: Tensor,
    gaps: Sequence[int] = (1, 2),
    *,
    iterations: int = 5,
    gamma: float | Tensor = 2.0,
) -> DualDecomposition:
    """The same for pairwise scores that are the sum of a map of each end; they are never stored per edge.

    The score of labels a, b at cells i, j, where j lies to the right of or below i, is
    `left[:, a, b, i] + right[:, a, b, j]`, for every gap.

    Args:
        unary: Scores of the labels of each cell, `[N, K, h, w]`.
        left: Of the earlier end of an edge, `[N, K, K, h, w]`.
        right: Of the later end, `[N, K, K, h, w]`.
        gaps: The distances of neighbours, at least 1 each.
        iterations: As in `dual_decomposition`, as is all that follows.
        gamma: γ.

    Returns:
        The logits and the dual of every iteration.

    Raises:
        ValueError: A shape, type, device or value does not fit.
    """
    _check(iterations, gamma)
    _check_factored(unary, left, right, gaps)
    _check_kinds(unary, [left, right], gamma)
    if _has_kernels(unary, gaps):
        return _by_kernels(unary, [left, right], gaps, True, iterations, gamma)
    horizontal, vertical = _edges(left, right, gaps)
    return _reference(unary, horizontal, vertical, gaps, iterations, gamma)


def _has_kernels(unary: Tensor, gaps: Sequence[int]) -> bool:
    dtype = torch.promote_types(unary.dtype, torch.float32)
    return chains.available(unary.device, dtype, unary.shape[1], len(gaps))


def _by_kernels(
    unary: Tensor,
    scores: Sequence[Tensor],
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    gamma: float | Tensor,
) -> DualDecomposition:
    dtype = torch.promote_types(unary.dtype, torch.float32)
    with torch.autocast(unary.device.type, enabled=False):
        unary, *scores = (x.to(dtype) for x in (unary, *scores))
        gamma = torch.as_tensor(gamma, dtype=dtype, device=unary.device)
        tensors = (unary, gamma, *scores)
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        logits, dual, *_ = operators.dual_decomposition(
            unary, scores, gamma, [*gaps], factored, iterations, keep
        )
        return DualDecomposition(logits, dual)


def _edges(left: Tensor, right: Tensor, gaps: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Factored scores written out for every edge, as `dual_decomposition` takes them."""
    h, w = left.shape[-2:]
    horizontal = [left[..., : max(0, w - g)] + right[..., min(g, w) :] for g in gaps]
    vertical = [left[..., : max(0, h - g), :] + right[..., min(g, h) :, :] for g in gaps]
    return horizontal, vertical


def dual_decomposition_reference(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    *,
    iterations: int = 5,
    gamma: float | Tensor = 2.0,
) -> DualDecomposition:
    """`dual_decomposition` in plain PyTorch: slower, but readable, on any device, differentiable twice."""
    _check(iterations, gamma)
    _check_shapes(unary, horizontal, vertical)
    return _reference(unary, horizontal, vertical, range(1, len(horizontal) + 1), iterations, gamma)


def _reference(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    gaps: Sequence[int],
    iterations: int,
    gamma: float | Tensor,
) -> DualDecomposition:
    dtype = torch.promote_types(unary.dtype, torch.float32)
    # All scores are in units of γ from here on: then γ is 1 in every formula.
    soft = bool(gamma > 0)
    unit = gamma if soft else 1.0
    with torch.autocast(unary.device.type, enabled=False):
        unary = unary.to(dtype) / unit
        problems = [
            *(_Lines(scores.to(dtype) / unit, gap, soft) for gap, scores in zip(gaps, horizontal)),
            *(_Columns(scores.to(dtype) / unit, gap, soft) for gap, scores in zip(gaps, vertical)),
        ]
        theta = [unary / len(problems)] * len(problems)
        step = 1 / max(unary.shape[2:])
        duals = []
        for iteration in range(iterations):
            results = [lines.marginals(scores) for lines, scores in zip(problems, theta)]
            duals.append(sum(dual for _, dual in results))
            total = sum(marginals for marginals, _ in results)
            if iteration + 1 < iterations:
                mean = total / len(problems)
                theta = [t - step * (m - mean) for t, (m, _) in zip(theta, results)]
        return DualDecomposition(unit * total, unit * torch.stack(duals))


class _Lines:
    """All chains of one gap along the rows, walked together.

    The cells of a row are cut into blocks of `gap`: the cells of one block follow those of the block
    before, each on its own chain, so one step serves all chains. The backward pass is the forward pass
    on the mirrored row; the two are stacked and walked as one. Rows and images come last in memory:
    the sums over labels then run over whole vectors.
    """

    def __init__(self, scores: Tensor, gap: int, soft: bool) -> None:
        """
        Args:
            scores: Pairwise scores in units of γ, `[N, K, K, rows, edges]`.
            gap: Distance of the two ends of an edge.
            soft: Whether the maximum is soft.
        """
        self.gap = gap
        self.soft = soft
        scores = scores.permute(4, 1, 2, 0, 3)
        # Per block [edges, K of the earlier cell, K of the later cell, direction, N, rows]
        self.blocks = torch.stack([scores, scores.flip(0).transpose(1, 2)], dim=3).split(gap)

    def marginals(self, unary: Tensor) -> tuple[Tensor, Tensor]:
        """The chains' max-marginals `[N, K, h, w]` and the sum of their maxima, a scalar."""
        cells = unary.permute(3, 1, 0, 2)  # [cells of a row, K, N, rows]
        both = torch.stack([cells, cells.flip(0)], dim=2)
        first, *later = both.split(self.gap)
        messages = [first]
        for block, edges in zip(later, self.blocks):
            before = messages[-1][: len(block)].unsqueeze(2)
            messages.append(block + self._maximum(before + edges))
        forward, backward = torch.cat(messages).unbind(2)
        marginals = forward + backward.flip(0) - cells
        dual = self._maximum(marginals[: self.gap]).sum()
        return marginals.permute(2, 1, 3, 0), dual

    def _maximum(self, scores: Tensor) -> Tensor:
        return torch.logsumexp(scores, dim=1) if self.soft else scores.max(dim=1).values


class _Columns(_Lines):
    """The same along the columns: the rows of the transposed grid."""

    def __init__(self, scores: Tensor, gap: int, soft: bool) -> None:
        super().__init__(scores.transpose(3, 4), gap, soft)

    def marginals(self, unary: Tensor) -> tuple[Tensor, Tensor]:
        marginals, dual = super().marginals(unary.transpose(2, 3))
        return marginals.transpose(2, 3), dual


def _check(iterations: int, gamma: float | Tensor) -> None:
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations!r}")
    if isinstance(gamma, Tensor):
        if gamma.ndim:
            raise ValueError(f"gamma must be a number or a tensor without dimensions, not {[*gamma.shape]}")
        if gamma.device.type != "cpu" or torch.compiler.is_compiling():
            return  # to look at the value would stop everything until the device has computed it
        gamma = gamma.item()
    if not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number, not {gamma!r}")


def _check_kinds(unary: Tensor, scores: Sequence[Tensor], gamma: float | Tensor) -> None:
    if not unary.is_floating_point():
        raise ValueError(f"unary must have a floating-point type, not {unary.dtype}")
    for tensor in scores:
        if (tensor.dtype, tensor.device) != (unary.dtype, unary.device):
            raise ValueError(
                f"unary and pairwise scores must be of one type on one device, not {unary.dtype} on "
                f"{unary.device} and {tensor.dtype} on {tensor.device}"
            )
    if isinstance(gamma, Tensor) and gamma.device.type not in ("cpu", unary.device.type):
        raise ValueError(f"gamma is on {gamma.device} and unary on {unary.device}: move it there")


def _check_factored(unary: Tensor, left: Tensor, right: Tensor, gaps: Sequence[int]) -> None:
    if unary.ndim != 4 or 0 in unary.shape:
        raise ValueError(f"unary must be [N, K, h, w] with no empty side, not {[*unary.shape]}")
    if not gaps or min(gaps) < 1:
        raise ValueError(f"gaps must be one or several distances of at least 1, not {gaps!r}")
    n, k, h, w = unary.shape
    for name, scores in (("left", left), ("right", right)):
        if [*scores.shape] != [n, k, k, h, w]:
            raise ValueError(f"{name} must be {[n, k, k, h, w]}, not {[*scores.shape]}")


def _check_shapes(unary: Tensor, horizontal: Sequence[Tensor], vertical: Sequence[Tensor]) -> None:
    if unary.ndim != 4 or 0 in unary.shape:
        raise ValueError(f"unary must be [N, K, h, w] with no empty side, not {[*unary.shape]}")
    if len(horizontal) != len(vertical) or not horizontal:
        raise ValueError(
            f"horizontal and vertical must have one tensor per gap each, not {len(horizontal)} "
            f"and {len(vertical)}"
        )
    n, k, h, w = unary.shape
    for gap, (row, column) in enumerate(zip(horizontal, vertical), 1):
        wanted = {"horizontal": [n, k, k, h, max(0, w - gap)], "vertical": [n, k, k, max(0, h - gap), w]}
        for name, scores in (("horizontal", row), ("vertical", column)):
            if [*scores.shape] != wanted[name]:
                raise ValueError(f"{name}[{gap - 1}] must be {wanted[name]}, not {[*scores.shape]}")
