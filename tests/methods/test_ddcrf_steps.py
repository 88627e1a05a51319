"""Longer steps of dual decomposition: never worse than the published ones, mostly far better."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from methods.ddcrf import DDCRF, dual_decomposition, dual_decomposition_factored
from tests.methods.decompositions import dense, random_problem


def potentials(kind: str, seed: int, scale: float, k: int, h: int, w: int) -> list[Tensor]:
    unary, horizontal, vertical = random_problem(1, k, h, w, 2, seed, scale)
    scores = [*horizontal, *vertical]
    if kind == "potts":
        scores = [
            scale * torch.eye(k, dtype=torch.double).view(1, k, k, 1, 1).expand(x.shape) for x in scores
        ]
    if kind == "factored":
        maps = random_problem(2, k * k, h, w, 1, seed + 1, 0.7 * scale)[0].unflatten(1, (k, k))
        left, right = maps.split(1)
        scores = [left[..., : w - g] + right[..., g:] for g in (1, 2)]
        scores += [left[..., : h - g, :] + right[..., g:, :] for g in (1, 2)]
    return [unary, *scores]


def test_longer_steps_are_never_worse_and_mostly_far_better() -> None:
    closed = []
    cases = itertools.product(
        ("random", "potts", "factored"), (1.0, 6.0), (0.5, 2.0, -1.0), ((16, 16), (5, 24))
    )
    for seed, (kind, scale, gamma, size) in enumerate(cases):
        scores = [x.float() for x in potentials(kind, seed, scale, 5, *size)]
        solve = dense(dual_decomposition, 2)
        published = solve(*scores, iterations=15, gamma=gamma).dual
        fast = solve(*scores, iterations=15, gamma=gamma, accelerate=True).dual
        assert ((fast - published) / published.abs() <= 1e-3).all(), (kind, scale, gamma, size)
        assert (fast.diff() <= 0).all()
        closed.append(float((fast[0] - fast[4]) / (published[0] - published[4]).clamp(min=1e-6)))
    assert torch.tensor(closed).median() > 1.5  # times as far down in five passes


@pytest.mark.parametrize("gamma", [0.5, -1.0])
def test_longer_steps_on_trained_scores(gamma: float) -> None:
    torch.manual_seed(0)
    k, channels = 4, 12
    layer, head = DDCRF(k, channels, gamma=gamma), torch.nn.Conv2d(channels, k, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.05)
    for _ in range(40):
        labels = torch.randint(k, (2, 3, 3)).repeat_interleave(4, 1).repeat_interleave(4, 2)
        features = 1.5 * torch.randn(2, channels, 12, 12)
        features[:, :k] += torch.nn.functional.one_hot(labels, k).movedim(3, 1)
        loss = layer.loss(layer.structure(torch.empty(0), features, head(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        left, right = (conv(features).unflatten(1, (k, k)) for conv in (layer.left, layer.right))
        for iterations in (5, 15):
            options = {"iterations": iterations, "gamma": gamma}
            published = dual_decomposition_factored(head(features), left, right, **options).dual
            fast = dual_decomposition_factored(head(features), left, right, **options, accelerate=True).dual
            assert ((fast - published) / published.abs() <= 1e-3).all()
            assert fast[0] - fast[-1] > 1.1 * (published[0] - published[-1])


@pytest.mark.parametrize("iterations", [2, 6])
@pytest.mark.parametrize("gamma", [1.5, -1.0])
def test_gradients_of_longer_steps(gamma: float, iterations: int) -> None:
    unary, horizontal, vertical = random_problem(2, 3, 3, 4, 2, scale=3)
    tensors = [t.requires_grad_() for t in (unary, *horizontal, *vertical)]

    def outputs(unary: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        result = dual_decomposition(
            unary, rest[:2], rest[2:], iterations=iterations, gamma=gamma, accelerate=True
        )
        return result.logits, result.dual

    assert torch.autograd.gradcheck(outputs, tensors)


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    unary, horizontal, vertical = random_problem(3, 4, 6, 7, 2)
    unary, *scores = (
        x * torch.tensor([0.3, 1.0, 20.0]).view(-1, *[1] * (x.ndim - 1))
        for x in (unary, *horizontal, *vertical)
    )
    solve = dense(dual_decomposition, 2)
    together = solve(unary, *scores, iterations=8, gamma=0.5, accelerate=True)
    alone = [
        solve(unary[i : i + 1], *(x[i : i + 1] for x in scores), iterations=8, gamma=0.5, accelerate=True)
        for i in range(3)
    ]
    torch.testing.assert_close(together.logits, torch.cat([x.logits for x in alone]))
    torch.testing.assert_close(together.dual, sum(x.dual for x in alone))


def test_a_step_that_went_too_far_is_taken_back() -> None:
    """Some of these must be rejected, or the tests above never see the way back."""
    unary, horizontal, vertical = random_problem(4, 5, 12, 12, 2, scale=3)
    scores = [*horizontal, *vertical]
    gamma = torch.tensor(1.0, dtype=torch.double)
    *_, course = torch.ops.structseg.dual_decomposition(unary, scores, gamma, [1, 2], False, 15, True, False)
    accepted = course[:, 0]
    assert (accepted[0] == 1).all() and (accepted == 0).any()
