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
from typing import Any

import torch
from torch import Tensor, nn

from common.kernels import backends
from common.kernels import decomposition as operators
from common.kernels.transforms import transformed
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
        gamma_end: float | None = None,
        learn_gamma: bool = False,
        accelerate: bool = False,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            iterations: Updates of the dual, at least 1. The paper: 5 with ASPP, 15 without.
            gaps: Number of gaps G, at least 1; neighbours lie 1, …, G cells apart.
            gamma: γ, how soft the maximum is; 0 or less for the hard maximum.
            gamma_end: If given, γ goes to this value in the course of training, in equal steps as in the
                published code; both must be positive.
            learn_gamma: Whether γ is a parameter that starts at `gamma`. It stays positive.
            accelerate: Whether to take longer steps than the published one, with a safeguard.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 1 <= gaps <= 100:
            raise ValueError(f"gaps must be at least 1 and at most 100, not {gaps!r}")
        if iterations > 1000:
            raise ValueError(f"iterations must be at most 1000, not {iterations!r}")
        _check(iterations, gamma)
        _check_course(gamma, gamma_end, learn_gamma)
        self.iterations = iterations
        self.gaps = gaps
        self.gamma = gamma
        self.gamma_end = gamma_end
        self.accelerate = accelerate
        self.log_gamma = nn.Parameter(torch.tensor(math.log(gamma))) if learn_gamma else None
        self.left = nn.Conv2d(feature_channels, num_classes**2, 1)
        self.right = nn.Conv2d(feature_channels, num_classes**2, 1, bias=False)
        for layer in (self.left, self.right):
            nn.init.normal_(layer.weight, std=0.001)
        nn.init.zeros_(self.left.bias)  # type: ignore[arg-type]  # it has one
        self._latest: tuple[Tensor, ...] | None = None

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        k = self.num_classes
        if features.is_cuda:  # then what the kernels read of a cell lies together
            features = features.contiguous(memory_format=torch.channels_last)
        left = self.left(features).unflatten(1, (k, k))
        right = self.right(features).unflatten(1, (k, k))
        # Mixed precision may give the three different types.
        dtype = torch.promote_types(torch.promote_types(unary.dtype, left.dtype), torch.float32)
        unary, left, right = (x.to(dtype) for x in (unary, left, right))
        self._latest = None if self.training else tuple(x.detach() for x in (unary, left, right))
        gaps = range(1, self.gaps + 1)
        return dual_decomposition_factored(unary, left, right, gaps, **self._options()).logits

    def _options(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "gamma": self._gamma(), "accelerate": self.accelerate}

    def _gamma(self) -> float | Tensor:
        if self.log_gamma is not None:
            return self.log_gamma.exp()
        if self.gamma_end is None:
            return self.gamma
        return self.gamma + (self.gamma_end - self.gamma) * self.progress

    def diagnostics(self) -> dict[str, float]:
        """How good the latest labellings are, in evaluation mode only; and γ, unless it is constant.

        `gap_per_cell` says how far they are from the best ones at most, per cell of the grid, and
        `agreement` is the share of cells at which all chains have the same best label.
        """
        values = {}
        if self.log_gamma is not None or self.gamma_end is not None:
            values["gamma"] = torch.as_tensor(self._gamma()).item()
        if self._latest is not None:
            unary, left, right = self._latest
            horizontal, vertical = _edges(left, right, range(1, self.gaps + 1))
            found = primal_dual_gap(unary, horizontal, vertical, **self._options())
            values["gap_per_cell"] = float(found.gap.mean()) / (unary.shape[2] * unary.shape[3])
            values["agreement"] = float(found.agreement.mean())
        return values


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
    accelerate: bool = False,
) -> DualDecomposition:
    """Approximate inference in a grid CRF by dual decomposition into chains.

    Half precision is computed in float32. Differentiable once in all tensors, a second time is refused; the
    results of two calls are the same bit by bit. Kernels are compiled at the first call; where that is
    impossible, the plain version `dual_decomposition_reference` is used, with a warning. So it is, without
    one, in forward mode and inside transformations of `torch.func`.

    Args:
        unary: Scores of the labels of each cell, `[N, K, h, w]`.
        horizontal: Item g−1 scores the labels of cells (r, c) and (r, c+g): `[N, K, K, h, max(0, w−g)]`.
        vertical: Item g−1 scores the labels of cells (r, c) and (r+g, c): `[N, K, K, max(0, h−g), w]`.
        iterations: Number of updates, at least 1.
        gamma: γ in the units of the scores, a number or a 0-dim tensor; 0 or less for the hard maximum.
        accelerate: Whether to take longer steps than the published one, with a safeguard: the dual gets
            far lower in as many iterations (`common/kernels/decomposition.py` says how).

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
        return dual_decomposition_reference(
            unary, horizontal, vertical, iterations=iterations, gamma=gamma, accelerate=accelerate
        )
    return _by_kernels(unary, scores, gaps, False, iterations, gamma, accelerate)


def dual_decomposition_factored(
    unary: Tensor,
    left: Tensor,
    right: Tensor,
    gaps: Sequence[int] = (1, 2),
    *,
    iterations: int = 5,
    gamma: float | Tensor = 2.0,
    accelerate: bool = False,
) -> DualDecomposition:
    """Dual decomposition with pairwise scores that are the sum of a map of each end, never stored per edge.

    The score of labels a, b at cells i, j, where j lies to the right of or below i, is
    `left[:, a, b, i] + right[:, a, b, j]`, for every gap.

    Args:
        unary: Scores of the labels of each cell, `[N, K, h, w]`.
        left: Of the earlier end of an edge, `[N, K, K, h, w]`.
        right: Of the later end, `[N, K, K, h, w]`.
        gaps: The distances of neighbours, at least 1 each.
        iterations: As in `dual_decomposition`.
        gamma: As in `dual_decomposition`.
        accelerate: As in `dual_decomposition`.

    Returns:
        The logits and the dual of every iteration.

    Raises:
        ValueError: A shape, type, device or value does not fit.
    """
    _check(iterations, gamma)
    _check_factored(unary, left, right, gaps)
    _check_kinds(unary, [left, right], gamma)
    if _has_kernels(unary, gaps):
        return _by_kernels(unary, [left, right], gaps, True, iterations, gamma, accelerate)
    horizontal, vertical = _edges(left, right, gaps)
    return _reference(unary, horizontal, vertical, gaps, iterations, gamma, accelerate)[0]


@dataclass(frozen=True)
class Certificate:
    """How close to the best labelling of the grid a decoded one is, of each image of a batch.

    Attributes:
        bound: No labelling has a score above this: the dual of the chains under the hard maximum, `[N]`.
            (The dual of a soft maximum contains entropy as well and bounds nothing of use.)
        score: The score of the labelling that the logits decode to, `[N]`.
        agreement: The share of cells at which all chains have the same best label, `[N]`.
    """

    bound: Tensor
    score: Tensor
    agreement: Tensor

    @property
    def gap(self) -> Tensor:
        """How far the decoded labelling is from the best one at most, `[N]`."""
        return self.bound - self.score


@torch.no_grad()
def primal_dual_gap(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    *,
    iterations: int = 5,
    gamma: float | Tensor = 2.0,
    accelerate: bool = False,
) -> Certificate:
    """Runs `dual_decomposition` and certifies the labelling that its logits decode to.

    Arguments and errors are those of `dual_decomposition`. If the gap is 0, the labelling is the best.
    """
    _check(iterations, gamma)
    _check_shapes(unary, horizontal, vertical)
    scores = [*horizontal, *vertical]
    _check_kinds(unary, scores, gamma)
    dtype = torch.promote_types(unary.dtype, torch.float32)
    gaps = range(1, len(horizontal) + 1)
    with torch.autocast(unary.device.type, enabled=False):
        unary, *scores = (x.to(dtype) for x in (unary, *scores))
        if _has_kernels(unary, gaps):
            gamma = _as_tensor(gamma, unary)
            logits, marginals = operators.hard_marginals(
                unary, scores, gamma, [*gaps], False, iterations, accelerate
            )
        else:
            result, theta = _reference(unary, horizontal, vertical, gaps, iterations, gamma, accelerate)
            logits = result.logits
            chosen = zip(_problems(scores, gaps, soft=False), theta)
            marginals = torch.stack([problem.marginals(t)[0] for problem, t in chosen])
    labels = marginals.argmax(dim=2)
    agreement = (labels == labels[0]).all(dim=0).double().mean(dim=(1, 2))
    score = _score(logits.argmax(dim=1), unary, scores[: len(gaps)], scores[len(gaps) :])
    return Certificate(_hard_dual(marginals.amax(dim=2), gaps), score, agreement)


def _hard_dual(maxima: Tensor, gaps: Sequence[int]) -> Tensor:
    """Sums the chains' maxima `[2G, N, h, w]` at each chain's first cell, for each image."""
    rows = [part[:, :, :gap] for gap, part in zip(gaps, maxima)]
    columns = [part[:, :gap] for gap, part in zip(gaps, maxima[len(gaps) :])]
    return sum(part.double().sum(dim=(1, 2)) for part in (*rows, *columns))


def _score(labels: Tensor, unary: Tensor, horizontal: Sequence[Tensor], vertical: Sequence[Tensor]) -> Tensor:
    """The score of a labelling `[N, h, w]` of each image, `[N]`."""
    h, w = labels.shape[1:]
    total = unary.double().gather(1, labels.unsqueeze(1)).sum(dim=(1, 2, 3))
    for gap, (row, column) in enumerate(zip(horizontal, vertical), 1):
        right, below = labels[:, :, min(gap, w) :], labels[:, min(gap, h) :]
        pairs = [
            (row, labels[:, :, : max(0, w - gap)] * unary.shape[1] + right),
            (column, labels[:, : max(0, h - gap)] * unary.shape[1] + below),
        ]
        for scores, pair in pairs:
            total = total + scores.flatten(1, 2).double().gather(1, pair.unsqueeze(1)).sum(dim=(1, 2, 3))
    return total


def _has_kernels(unary: Tensor, gaps: Sequence[int]) -> bool:
    """Whether the kernels can be used; where PyTorch transforms the function it is the plain version."""
    if transformed():
        return False
    dtype = torch.promote_types(unary.dtype, torch.float32)
    return backends.available(unary.device, dtype, unary.shape[1], len(gaps))


def _by_kernels(
    unary: Tensor,
    scores: Sequence[Tensor],
    gaps: Sequence[int],
    factored: bool,
    iterations: int,
    gamma: float | Tensor,
    accelerate: bool,
) -> DualDecomposition:
    dtype = torch.promote_types(unary.dtype, torch.float32)
    with torch.autocast(unary.device.type, enabled=False):
        unary, *scores = (x.to(dtype) for x in (unary, *scores))
        gamma = _as_tensor(gamma, unary)
        tensors = (unary, gamma, *scores)
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        logits, dual, *_ = operators.dual_decomposition(
            unary, scores, gamma, [*gaps], factored, iterations, accelerate, keep
        )
        return DualDecomposition(logits, dual)


def _as_tensor(gamma: float | Tensor, like: Tensor) -> Tensor:
    # A number is filled in on the device: to copy it there would make the host wait.
    return gamma.to(like) if isinstance(gamma, Tensor) else like.new_full((), gamma)


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
    accelerate: bool = False,
) -> DualDecomposition:
    """`dual_decomposition` in plain PyTorch: slower, but readable, on any device, differentiable twice."""
    _check(iterations, gamma)
    _check_shapes(unary, horizontal, vertical)
    return _reference(
        unary, horizontal, vertical, range(1, len(horizontal) + 1), iterations, gamma, accelerate
    )[0]


def _reference(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    gaps: Sequence[int],
    iterations: int,
    gamma: float | Tensor,
    accelerate: bool,
) -> tuple[DualDecomposition, Tensor]:
    """Returns the unary scores of the chains of the last or best iteration too, `[2G, N, K, h, w]`."""
    dtype = torch.promote_types(unary.dtype, torch.float32)
    # All scores are in units of γ from here on: then γ is 1 in every formula.
    soft = bool(gamma > 0)
    unit = gamma if soft else 1.0
    with torch.autocast(unary.device.type, enabled=False):
        unary = unary.to(dtype) / unit
        problems = _problems([x.to(dtype) / unit for x in (*horizontal, *vertical)], gaps, soft)
        theta = torch.stack([unary / len(problems)] * len(problems))
        unit_step = 1 / max(unary.shape[2:])
        best: tuple[Tensor, ...] | None = None  # dual, scores and marginals of the best place so far
        length = unary.new_full((len(unary),), operators.Steps.FIRST)
        duals = []
        for _ in range(iterations):
            results = [chains.marginals(scores) for chains, scores in zip(problems, theta)]
            here = sum(dual for _, dual in results), theta, torch.stack([found for found, _ in results])
            moved = torch.zeros_like(theta)
            if accelerate and best is not None:
                better = here[0] < best[0]
                length = length * torch.where(better, operators.Steps.GROWTH, operators.Steps.DECAY)
                chosen = better.view(-1, 1, 1, 1)
                moved = torch.where(chosen, theta - best[1], 0)
                # mypy: three tensors, of which a sum starts with the number 0
                here = tuple(torch.where(better if x.ndim == 1 else chosen, x, y) for x, y in zip(here, best))  # type: ignore[assignment, union-attr]
            best = here  # type: ignore[assignment]
            dual, place, found = best  # type: ignore[misc]
            duals.append(dual.sum())
            direction = unit_step * (found - found.mean(0))
            if accelerate:
                theta = place - length.view(-1, 1, 1, 1) * direction + operators.Steps.MOMENTUM * moved
            else:
                theta = place - direction
        return DualDecomposition(unit * found.sum(0), unit * torch.stack(duals)), unit * place


def _problems(scores: Sequence[Tensor], gaps: Sequence[int], soft: bool) -> list[_Lines]:
    rows = [_Lines(x, gap, soft) for gap, x in zip(gaps, scores)]
    return rows + [_Columns(x, gap, soft) for gap, x in zip(gaps, scores[len(gaps) :])]


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
        """The chains' max-marginals `[N, K, h, w]` and the sum of their maxima of each image, `[N]`."""
        cells = unary.permute(3, 1, 0, 2)  # [cells of a row, K, N, rows]
        both = torch.stack([cells, cells.flip(0)], dim=2)
        first, *later = both.split(self.gap)
        messages = [first]
        for block, edges in zip(later, self.blocks):
            before = messages[-1][: len(block)].unsqueeze(2)
            messages.append(block + self._maximum(before + edges))
        forward, backward = torch.cat(messages).unbind(2)
        marginals = forward + backward.flip(0) - cells
        dual = self._maximum(marginals[: self.gap]).sum(dim=(0, 2))
        return marginals.permute(2, 1, 3, 0), dual

    def _maximum(self, scores: Tensor) -> Tensor:
        return torch.logsumexp(scores, dim=1) if self.soft else scores.max(dim=1).values


class _Columns(_Lines):
    """The chains along the columns: the rows of the transposed grid."""

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
        if gamma.device.type != "cpu":
            return  # to look at the value would stop everything until the device has computed it
    if torch.compiler.is_compiling():
        return  # it may have no value yet
    gamma = gamma.item() if isinstance(gamma, Tensor) else gamma
    if not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number, not {gamma!r}")


def _check_course(gamma: float, gamma_end: float | None, learn_gamma: bool) -> None:
    if gamma_end is not None and learn_gamma:
        raise ValueError("gamma_end and learn_gamma exclude each other: gamma is either annealed or learned")
    if (gamma_end is not None or learn_gamma) and gamma <= 0:
        raise ValueError(f"gamma must be positive to be annealed or learned, not {gamma!r}")
    if gamma_end is not None and not (math.isfinite(gamma_end) and gamma_end > 0):
        raise ValueError(f"gamma_end must be a positive finite number, not {gamma_end!r}")


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
