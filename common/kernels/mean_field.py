"""Mean-field updates of fully connected CRFs whose kernels are Gaussians, filtered by permutohedral lattices.

With the unary scores U, the filters F_l and the weights W_l of the labels, the scores S start as U, and an
update is

    S ← U + Σ_l F_l(softmax(S)) · W_lᵀ

On a CPU with a C++ compiler and on a GPU an update is fused: messages are weighted, added up and
turned into marginals point by point. Elsewhere, and for derivatives of derivatives, it is plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.kernels import lattice_cpu, lattice_gpu
from common.kernels.lattice import Engine, Lattice
from common.kernels.lattice_cpu import CpuLattice
from common.kernels.lattice_gpu import GpuLattice
from common.kernels.transforms import transformed

Weights = Tensor | tuple[float, ...]
"""Of each filter: numbers (labels speak for themselves alone), or matrices `[filters, K, K]`: how much the
label of one point (column) speaks for that of another (row)."""


class Filter(Protocol):
    """What gives each point a weighted sum over the points."""

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """`[N · P, K]` to the same."""


class Updates(NamedTuple):
    """How a mean field is updated.

    Attributes:
        filters: Between the points.
        iterations: How many updates, at least 1.
        marginals: Whether the result is the softmax of the scores.
    """

    filters: Sequence[Filter]
    iterations: int
    marginals: bool

    def lattices(self) -> list[Any]:
        """Those of the filters; mypy does not know that they are all of one kind."""
        return [one.engine for one in self.filters if isinstance(one, Lattice)]

    def compiled(self, labels: int) -> Any:
        """The module that has the fused updates, or None."""
        lattices: list[Engine] = self.lattices()
        if len(lattices) < len(self.filters):
            return None
        if all(isinstance(one, CpuLattice) for one in lattices):
            return lattice_cpu
        on_gpu = all(isinstance(one, GpuLattice) for one in lattices)
        fits = labels <= lattice_gpu.LABELS and len(lattices) <= lattice_gpu.MOST
        return lattice_gpu if on_gpu and fits else None


def mean_field(
    unary: Tensor,
    filters: Sequence[Filter],
    weights: Sequence[float | Tensor],
    iterations: int,
    marginals: bool = False,
) -> Tensor:
    """Scores whose softmax are the marginals, or these.

    Args:
        unary: Scores of the labels of each point (not energies), `[N, K, P]`, float32 or float64.
        filters: Between the points.
        weights: Of each filter, a number or a matrix `[K, K]`, as in `Weights`.
        iterations: How many updates, at least 1.
        marginals: Whether the result is the softmax of the scores.

    Returns:
        `[N, K, P]`; differentiable by unary and weights any number of times.
    """
    together = _together(weights, unary)
    updates = Updates(filters, iterations, marginals)
    if updates.compiled(unary.shape[1]) and not transformed():
        return _MeanField.apply(unary, together, updates)
    return _plain(unary, together, updates)


def _together(weights: Sequence[float | Tensor], unary: Tensor) -> Weights:
    """Numbers, if all are; else matrices of the scores' type."""
    if not any(isinstance(weight, Tensor) for weight in weights):
        return tuple(map(float, weights))
    eye = torch.eye(unary.shape[1], dtype=unary.dtype, device=unary.device)
    return torch.stack([x.to(unary) if isinstance(x, Tensor) else x * eye for x in weights])


def _plain(unary: Tensor, weights: Weights, updates: Updates) -> Tensor:
    """As `mean_field`, in plain PyTorch."""
    start = unary.mT.flatten(0, 1)
    scores = start
    for _ in range(updates.iterations):
        marginals = _softmax(scores)
        scores = start
        for weight, one in zip(weights, updates.filters, strict=True):
            message = one.filter(marginals)
            if isinstance(weight, Tensor):
                scores = scores + message @ weight.mT
            else:
                scores = scores.add(message, alpha=weight)
    result = scores.unflatten(0, (len(unary), -1)).mT
    return result.softmax(dim=1) if updates.marginals else result


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; over the first, PyTorch's is far faster if it is short (CPU)."""
    return scores.mT.contiguous().softmax(dim=0).mT.contiguous()


class _MeanField(torch.autograd.Function):
    """The fused updates, which keep the marginals before each of them for the derivative."""

    @staticmethod
    def forward(ctx: Any, unary: Tensor, weights: Weights, updates: Updates) -> Tensor:
        keep = any(ctx.needs_input_grad)
        options = (updates.iterations, updates.marginals, keep)
        module = updates.compiled(unary.shape[1])
        result, kept = module.mean_field(updates.lattices(), unary, weights, *options)
        if keep:
            matrices, ctx.numbers = (weights, None) if isinstance(weights, Tensor) else (None, weights)
            ctx.updates, ctx.module = updates, module
            ctx.save_for_backward(unary, result if updates.marginals else None, kept, matrices)
        return result

    @staticmethod
    def backward(ctx: Any, by_result: Tensor) -> tuple[Tensor | None, ...]:
        unary, result, kept, matrices = ctx.saved_tensors
        weights = ctx.numbers if matrices is None else matrices
        needs = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # a derivative of this one may be wanted
            wanted = [x for x, need in zip((unary, weights), needs) if need]
            again = _plain(unary, weights, ctx.updates)
            by = iter(torch.autograd.grad(again, wanted, by_result, create_graph=True))
            return *(next(by) if need else None for need in needs), None
        if result is not None:
            by_result = result * (by_result - (result * by_result).sum(dim=1, keepdim=True))
        by_unary, by_weights = ctx.module.derivatives(by_result, kept, weights, ctx.updates.lattices())
        return by_unary, by_weights if needs[1] else None, None
