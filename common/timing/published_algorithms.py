"""What the project's kernels are timed against: the published algorithms in their authors' style."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def per_step_loop(
    unary: Tensor,
    horizontal: Sequence[Tensor],
    vertical: Sequence[Tensor],
    *,
    iterations: int = 5,
    gamma: float = 2.0,
) -> Tensor:
    """The logits of `dual_decomposition` as the published code computes them, with autograd.

    Sub-grid by sub-grid, step by step, each direction on its own.

    Args:
        unary: `[N, K, h, w]`.
        horizontal: Pairwise scores of the edges along rows, `[N, K, K, h, w − gap]` for gaps 1, 2, ….
        vertical: Those along columns, `[N, K, K, h − gap, w]`.
        iterations: How many; at least one.
        gamma: The temperature, positive.

    Returns:
        `[N, K, h, w]`.
    """
    count = 2 * len(horizontal)
    theta = [unary / count] * count
    step = 1 / max(unary.shape[2:])
    for _ in range(iterations):
        marginals = []
        for index, scores in enumerate((*horizontal, *vertical)):
            gap, turned = index % len(horizontal) + 1, index >= len(horizontal)
            cells, pairs = theta[index], scores
            if turned:
                cells, pairs = cells.transpose(2, 3), pairs.transpose(3, 4)
            of_chains = torch.zeros_like(cells)
            for row, column in itertools.product(range(gap), repeat=2):
                part = (..., slice(row, None, gap), slice(column, None, gap))
                if cells[part].numel():
                    of_chains[part] = _walk(cells[part], pairs[part], gamma)
            marginals.append(of_chains.transpose(2, 3) if turned else of_chains)
        total = sum(marginals[1:], start=marginals[0])
        theta = [t - step * (m - total / count) for t, m in zip(theta, marginals)]
    return total


def _walk(cells: Tensor, pairs: Tensor, gamma: float) -> Tensor:
    """The soft max-marginals `[N, K, h, w]` of the chains along w, a step at a time."""
    length = cells.shape[-1]
    ahead, behind = [cells[..., 0]], [cells[..., -1]]
    for i in range(length - 1):
        reach = (pairs[..., i] + ahead[-1].unsqueeze(2)) / gamma
        ahead.append(cells[..., i + 1] + gamma * torch.logsumexp(reach, dim=1))
        j = length - 2 - i
        reach = (pairs[..., j] + behind[-1].unsqueeze(1)) / gamma
        behind.append(cells[..., j] + gamma * torch.logsumexp(reach, dim=2))
    return torch.stack(ahead, dim=-1) + torch.stack(behind[::-1], dim=-1) - cells


def direct_rmi(logits: Tensor, labels: Tensor, *, radius: int = 3, pool_size: int = 4) -> Tensor:
    """The RMI loss with average pooling and λ = ½ as the published code computes it.

    One-hot labels at full size, a copy of the pooled maps in float64 for every place in the window, explicit
    inverses.

    Args:
        logits: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.
        radius: R; windows have R² places.
        pool_size: Size and stride of the pooling.

    Returns:
        A scalar.
    """
    k = logits.shape[1]
    valid = labels < k
    one_hot = functional.one_hot(labels * valid, k).to(logits.dtype) * valid.unsqueeze(3)
    flat = logits.permute(0, 2, 3, 1).reshape(-1, k)
    mask = valid.to(logits.dtype)
    bce = functional.binary_cross_entropy_with_logits(
        flat, one_hot.view(-1, k), weight=mask.view(-1, 1), reduction="sum"
    )
    maps = (one_hot.permute(0, 3, 1, 2), logits.sigmoid() * mask.unsqueeze(1) + 1e-6)
    centred = []
    for map_ in maps:
        pooled = functional.avg_pool2d(map_, pool_size, pool_size, padding=pool_size // 2)
        h, w = (side - radius + 1 for side in pooled.shape[2:])
        places = itertools.product(range(radius), repeat=2)
        windows = torch.stack([pooled[:, :, y : y + h, x : x + w] for y, x in places], dim=2)
        windows = windows.flatten(3).double()
        centred.append(windows - windows.mean(dim=3, keepdim=True))
    truth, predicted = centred
    ridge = 5e-4 * torch.eye(radius**2, dtype=torch.double, device=logits.device)
    inverse = torch.inverse(predicted @ predicted.mT + ridge)
    cross = truth @ predicted.mT
    factor = torch.linalg.cholesky(truth @ truth.mT - cross @ inverse @ cross.mT + ridge)
    terms = factor.diagonal(dim1=2, dim2=3).log().sum(dim=2).mean(dim=0).to(logits.dtype) / radius**2
    return 0.5 * bce / (mask.sum() + 1) + 0.5 * terms.sum()
