"""The certificate of dual decomposition: its bound, and how far the decoded labels are from it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from common.kernels import cpu
from methods.ddcrf import dual_decomposition, primal_dual_gap
from tests.methods.decompositions import random_problem


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 1.0), (2, 3.0)])
def test_the_certificate_bounds_the_best_labelling(
    monkeypatch: pytest.MonkeyPatch, kernels: bool, seed: int, scale: float
) -> None:
    if not kernels:
        monkeypatch.setattr(cpu, "library", lambda name: None)
    n, k, h, w = 2, 3, 2, 3
    unary, horizontal, vertical = random_problem(n, k, h, w, 2, seed, scale)
    certificate = primal_dual_gap(unary, horizontal, vertical, iterations=20, gamma=0.5)
    logits = dual_decomposition(unary, horizontal, vertical, iterations=20, gamma=0.5).logits
    for image in range(n):
        scores = {}
        for x in itertools.product(range(k), repeat=h * w):
            grid = torch.tensor(x).view(h, w)
            score = sum(float(unary[image, grid[r, c], r, c]) for r in range(h) for c in range(w))
            for g in (1, 2):
                for r, c in itertools.product(range(h), range(w)):
                    if c + g < w:
                        score += float(horizontal[g - 1][image, grid[r, c], grid[r, c + g], r, c])
                    if r + g < h:
                        score += float(vertical[g - 1][image, grid[r, c], grid[r + g, c], r, c])
            scores[x] = score
        decoded = tuple(logits[image].argmax(0).flatten().tolist())
        assert certificate.score[image] == pytest.approx(scores[decoded])
        assert certificate.bound[image] >= max(scores.values()) - 1e-9
        assert 0 <= certificate.agreement[image] <= 1
        if certificate.agreement[image] == 1:
            assert certificate.gap[image] == pytest.approx(0, abs=1e-9)


def test_the_bound_holds_after_long_steps_in_single_precision() -> None:
    """Accelerated steps grow, and with them what rounding takes from the chains."""
    unary, *pairs = random_problem(2, 3, 12, 12, 2, scale=10.0)
    horizontal, vertical = ([0.1 * x for x in part] for part in pairs)
    options: dict[str, Any] = {"iterations": 60, "gamma": 0.0, "accelerate": True}
    reached = primal_dual_gap(unary, horizontal, vertical, **options).score
    single = unary.float(), [x.float() for x in horizontal], [x.float() for x in vertical]
    assert (primal_dual_gap(*single, **options).bound >= reached).all()


def test_kernels_and_plain_version_give_the_same_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(2, 4, 5, 6, 3)
    actual = vars(primal_dual_gap(*problem, iterations=3, gamma=1.0))
    monkeypatch.setattr(cpu, "library", lambda name: None)
    expected = vars(primal_dual_gap(*problem, iterations=3, gamma=1.0))
    for key, value in actual.items():
        assert value.shape == (2,)
        torch.testing.assert_close(value, expected[key])


def test_independent_cells_have_no_gap() -> None:
    unary, horizontal, vertical = random_problem(1, 4, 5, 6, 2)
    certificate = primal_dual_gap(unary, [0 * x for x in horizontal], [0 * x for x in vertical])
    assert certificate.agreement == 1
    torch.testing.assert_close(certificate.bound, unary.amax(1).sum((1, 2)))
    torch.testing.assert_close(certificate.score, certificate.bound)
