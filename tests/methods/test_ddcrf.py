"""Dual decomposition against its definition, every labelling of every chain enumerated; its layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.ddcrf import (
    DDCRF,
    DualDecomposition,
    dual_decomposition,
    dual_decomposition_factored,
    dual_decomposition_reference,
)
from tests.methods.decompositions import random_problem


def soft_maximum(scores: Tensor, gamma: float) -> Tensor:
    return scores.max() if gamma <= 0 else gamma * torch.logsumexp(scores / gamma, 0)


def enumerated(
    unary: Tensor,
    horizontal: list[Tensor],
    vertical: list[Tensor],
    iterations: int,
    gamma: float,
) -> tuple[Tensor, list[Tensor]]:
    """The definition, for one image: chains as lists of cells, all their labellings one by one."""
    k, h, w = unary.shape
    kinds = [(g, axis) for g in range(1, len(horizontal) + 1) for axis in (0, 1)]
    chains = []
    for g, axis in kinds:
        lines, length = (h, w) if axis == 0 else (w, h)
        for line, start in itertools.product(range(lines), range(min(g, length))):
            places = range(start, length, g)
            cells = [(line, p) if axis == 0 else (p, line) for p in places]
            chains.append((cells, (g, axis)))
    theta = {kind: unary / len(kinds) for kind in kinds}
    duals = []
    for _ in range(iterations):
        marginals = {kind: torch.zeros_like(unary) for kind in kinds}
        dual = torch.zeros((), dtype=unary.dtype)
        for cells, (g, axis) in chains:
            pairwise = (horizontal if axis == 0 else vertical)[g - 1]
            labellings = list(itertools.product(range(k), repeat=len(cells)))
            scores = []
            for x in labellings:
                score = sum(theta[g, axis][x[i], r, c] for i, (r, c) in enumerate(cells))
                for i, (r, c) in enumerate(cells[:-1]):
                    score = score + pairwise[x[i], x[i + 1], r, c]
                scores.append(score)
            scores = torch.stack(scores)
            dual = dual + soft_maximum(scores, gamma)
            for i, (r, c) in enumerate(cells):
                for label in range(k):
                    chosen = [n for n, x in enumerate(labellings) if x[i] == label]
                    marginals[g, axis][label, r, c] = soft_maximum(scores[chosen], gamma)
        duals.append(dual)
        total = sum(marginals.values())
        theta = {kind: theta[kind] - (marginals[kind] - total / len(kinds)) / max(h, w) for kind in kinds}
    return total, duals


@pytest.mark.parametrize("gamma", [2.0, 0.3, 0.0, -1.0])
@pytest.mark.parametrize(
    ("k", "h", "w", "gaps"),
    [(2, 3, 4, 2), (3, 2, 5, 2), (3, 1, 4, 3), (2, 4, 2, 3), (4, 1, 1, 2), (2, 3, 3, 1)],
)
@pytest.mark.parametrize("function", [dual_decomposition, dual_decomposition_reference])
def test_equals_enumeration_of_every_chain(
    function: Callable[..., DualDecomposition], k: int, h: int, w: int, gaps: int, gamma: float
) -> None:
    unary, horizontal, vertical = random_problem(2, k, h, w, gaps, scale=2)
    result = function(unary, horizontal, vertical, iterations=3, gamma=gamma)
    duals = []
    for image in range(2):
        one = enumerated(unary[image], [t[image] for t in horizontal], [t[image] for t in vertical], 3, gamma)
        torch.testing.assert_close(result.logits[image], one[0], rtol=1e-12, atol=1e-12)
        duals.append(torch.stack(one[1]))
    torch.testing.assert_close(result.dual, sum(duals), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.5, -1.0])
def test_gradients_of_all_inputs(gamma: float) -> None:
    unary, horizontal, vertical = random_problem(1, 3, 3, 4, 2)
    tensors = [t.requires_grad_() for t in (unary, *horizontal, *vertical)]

    def outputs(unary: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        result = dual_decomposition(unary, rest[:2], rest[2:], iterations=2, gamma=gamma)
        return result.logits, result.dual

    assert torch.autograd.gradcheck(outputs, tensors)


@settings(max_examples=40)
@given(
    k=st.integers(2, 6),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    gaps=st.integers(1, 3),
    gamma=st.sampled_from([0.1, 1.0, 2.0, 10.0]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_the_dual_never_rises(
    k: int, h: int, w: int, gaps: int, gamma: float, scale: float, seed: int
) -> None:
    problem = random_problem(2, k, h, w, gaps, seed, scale)
    dual = dual_decomposition(*problem, iterations=8, gamma=gamma).dual
    assert dual.shape == (8,)
    assert (dual.diff() <= 1e-9 * dual.abs()[:-1] + 1e-9).all(), dual


def test_the_dual_bounds_every_labelling() -> None:
    """The hard dual is at least the score of any labelling of the grid."""
    unary, horizontal, vertical = random_problem(1, 2, 2, 3, 1)
    dual = dual_decomposition(unary, horizontal, vertical, iterations=50, gamma=-1).dual
    best = -torch.inf
    for x in itertools.product(range(2), repeat=6):
        grid = torch.tensor(x).view(2, 3)
        score = sum(unary[0, grid[r, c], r, c] for r in range(2) for c in range(3))
        score += sum(horizontal[0][0, grid[r, c], grid[r, c + 1], r, c] for r in range(2) for c in range(2))
        score += sum(vertical[0][0, grid[0, c], grid[1, c], 0, c] for c in range(3))
        best = max(best, float(score))
    assert dual[-1] >= best - 1e-9
    assert dual[-1] < dual[0]


def test_without_pairwise_scores_the_labels_are_those_of_the_unary() -> None:
    unary, horizontal, vertical = random_problem(2, 5, 6, 7, 2)
    zero = dual_decomposition(unary, [0 * t for t in horizontal], [0 * t for t in vertical])
    shift = zero.logits - unary
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))


def test_large_scores_stay_finite() -> None:
    unary, horizontal, vertical = (
        [x.float() * 100 for x in t] if isinstance(t, list) else t.float() * 100
        for t in random_problem(1, 4, 8, 8, 2)
    )
    unary.requires_grad_()
    result = dual_decomposition(unary, horizontal, vertical, gamma=0.1)
    result.logits.sum().backward()
    assert result.logits.isfinite().all() and unary.grad.isfinite().all()


@pytest.mark.parametrize("cells", [(slice(None), slice(None)), (-1, slice(None)), (slice(None), -1), "last"])
def test_what_is_no_number_stays_in_its_image(cells: object) -> None:
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(2, 3, 5, 6, generator=generator)
    left, right = (torch.randn(2, 3, 3, 5, 6, generator=generator) for _ in range(2))
    left[0] *= 300
    for where in [(-1, slice(None)), (slice(None), -1)] if cells == "last" else [cells]:
        left[(0, 0, 0, *where)] = torch.nan
    unary.requires_grad_()
    result = dual_decomposition_factored(unary, left, right)
    result.logits[1].sum().backward()
    alone = dual_decomposition_factored(unary[1:].detach(), left[1:], right[1:])
    assert result.logits[0].isnan().any() and unary.grad[1].isfinite().all()
    torch.testing.assert_close(result.logits[1:], alone.logits, rtol=1e-5, atol=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    unary, horizontal, vertical = random_problem(1, 3, 4, 4, 1)
    low = [unary.bfloat16(), [t.bfloat16() for t in horizontal], [t.bfloat16() for t in vertical]]
    high = [low[0].float(), [t.float() for t in low[1]], [t.float() for t in low[2]]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = dual_decomposition(*low)
    assert result.logits.dtype == torch.float32
    torch.testing.assert_close(result.logits, dual_decomposition(*high).logits)


def test_the_layer_scores_edges_by_a_convolution_of_both_ends() -> None:
    torch.manual_seed(0)
    k, channels = 3, 5
    layer = DDCRF(k, channels, iterations=2, gaps=2).double()
    torch.nn.init.normal_(layer.left.bias)
    features, unary = torch.randn(1, channels, 4, 5).double(), torch.randn(1, k, 4, 5).double()
    weight = torch.cat([layer.left.weight, layer.right.weight], dim=1)

    def convolved(first: Tensor, second: Tensor) -> Tensor:
        ends = torch.cat([first, second], dim=1)
        return torch.nn.functional.conv2d(ends, weight, layer.left.bias).unflatten(1, (k, k))

    horizontal = [convolved(features[..., :-g], features[..., g:]) for g in (1, 2)]
    vertical = [convolved(features[..., :-g, :], features[..., g:, :]) for g in (1, 2)]
    expected = dual_decomposition(unary, horizontal, vertical, iterations=2).logits
    torch.testing.assert_close(layer.structure(torch.empty(0), features, unary), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda u, h, v: (u[0], h, v), "unary must be"),
        (lambda u, h, v: (u, h[:1], v), "one tensor per gap"),
        (lambda u, h, v: (u, [], []), "one tensor per gap"),
        (lambda u, h, v: (u, [h[0], h[0]], v), r"horizontal\[1\] must be \[1, 3, 3, 4, 3\]"),
        (lambda u, h, v: (u, h, [v[0], v[1][:, :2]]), r"vertical\[1\] must be"),
    ],
)
def test_wrong_shapes_are_one_sentence(change: object, sentence: str) -> None:
    problem = change(*random_problem(1, 3, 4, 5, 2))
    with pytest.raises(ValueError, match=sentence):
        dual_decomposition(*problem)


@pytest.mark.parametrize("gamma", [float("nan"), float("inf")])
def test_gamma_must_be_finite(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be a finite number"):
        dual_decomposition(*random_problem(1, 2, 2, 2, 1), gamma=gamma)


def test_iterations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        dual_decomposition(*random_problem(1, 2, 2, 2, 1), iterations=0)


def test_the_layer_reports_gap_and_agreement_in_evaluation_only() -> None:
    layer = DDCRF(3, 4)
    torch.nn.init.normal_(layer.left.weight)
    arguments = torch.empty(0), torch.randn(1, 4, 5, 6), torch.randn(1, 3, 5, 6)
    layer.structure(*arguments)
    assert layer.diagnostics() == {}
    layer.eval().structure(*arguments)
    diagnostics = layer.diagnostics()
    assert diagnostics["gap_per_cell"] >= 0 and 0 <= diagnostics["agreement"] <= 1


def test_gamma_is_annealed_or_learned() -> None:
    arguments = torch.empty(0), torch.randn(1, 4, 5, 6), torch.randn(1, 3, 5, 6)
    annealed = DDCRF(3, 4, gamma=4.0, gamma_end=1.0)
    for progress, gamma in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        annealed.progress = progress
        constant = DDCRF(3, 4, gamma=gamma)
        constant.load_state_dict(annealed.state_dict())
        torch.testing.assert_close(annealed.structure(*arguments), constant.structure(*arguments))
        assert annealed.diagnostics()["gamma"] == pytest.approx(gamma)
    learned = DDCRF(3, 4, gamma=2.0, learn_gamma=True)
    learned.structure(*arguments).square().sum().backward()
    assert learned.diagnostics()["gamma"] == pytest.approx(2.0)
    assert learned.log_gamma.grad != 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gamma_end": 1.0, "learn_gamma": True}, "exclude each other"),
        ({"gamma": 0.0, "learn_gamma": True}, "must be positive"),
        ({"gamma_end": -1.0}, "gamma_end must be"),
        ({"gaps": 0}, "gaps must be"),
    ],
)
def test_impossible_options_are_one_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DDCRF(3, 4, **options)
