"""Problems of dual decomposition, and all that solving one gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.ddcrf import DualDecomposition

GAMMAS = [-1.0, 0.1, 1.0, 2.0, 10.0]


def random_problem(
    n: int, k: int, h: int, w: int, gaps: int, seed: int = 0, scale: float = 1.0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.double)

    horizontal = [draw(n, k, k, h, max(0, w - g)) for g in range(1, gaps + 1)]
    vertical = [draw(n, k, k, max(0, h - g), w) for g in range(1, gaps + 1)]
    return draw(n, k, h, w), horizontal, vertical


def everything(
    function: Callable[..., DualDecomposition],
    scores: list[Tensor],
    gamma: float,
    dtype: torch.dtype,
    learned: bool = True,
    **options: object,
) -> list[Tensor]:
    """Logits, dual, and the derivatives of a weighted sum of both by all scores and by a learned gamma."""
    leaves = [x.to(dtype).requires_grad_() for x in scores]
    learned = learned and gamma > 0
    soft = torch.tensor(gamma, dtype=dtype, requires_grad=learned)
    result = function(*leaves, gamma=soft, **options)
    generator = torch.Generator().manual_seed(9)
    weights = [
        torch.rand(x.shape, generator=generator, dtype=torch.double).to(dtype) for x in vars(result).values()
    ]
    total = sum((x * y).sum() for x, y in zip(vars(result).values(), weights))
    inputs = [*(x for x in leaves if x.numel()), *([soft] if learned else [])]
    return [
        result.logits.detach(),
        result.dual.detach(),
        *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True),
    ]


def dense(function: Callable[..., DualDecomposition], gaps: int) -> Callable[..., DualDecomposition]:
    def call(unary: Tensor, *scores: Tensor, **options: object) -> DualDecomposition:
        return function(unary, scores[:gaps], scores[gaps:], **options)

    return call


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for x, y in zip(actual, expected, strict=True):
        assert x.isfinite().all()
        assert (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=tolerance), (x - y).abs().max()
