"""Dual decomposition against its definition: every labelling of every chain, enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.kernels import batch, cpu
from common.timing.published_algorithms import per_step_loop
from methods.ddcrf import (
    DDCRF,
    DualDecomposition,
    dual_decomposition,
    dual_decomposition_factored,
    dual_decomposition_reference,
    primal_dual_gap,
)

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


# The kernels against the plain version


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


SIZES = {
    "n": st.integers(1, 3),
    "k": st.sampled_from([2, 3, 5, 11, 19, 21, 33]),
    "h": st.integers(1, 9),
    "w": st.integers(1, 18),
    "gamma": st.sampled_from(GAMMAS),
    "scale": st.sampled_from([0.1, 3.0, 100.0]),
    "seed": st.integers(0, 10_000),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-10), (torch.float, 1e-4)])
@settings(max_examples=40)
@given(
    gaps=st.integers(1, 4),
    iterations=st.integers(1, 4),
    accelerate=st.booleans(),
    learned=st.booleans(),
    **SIZES,
)
def test_kernels_equal_the_plain_version(
    dtype: torch.dtype,
    tolerance: float,
    gaps: int,
    iterations: int,
    accelerate: bool,
    learned: bool,
    seed: int,
    scale: float,
    **sizes: int,
) -> None:
    gamma = sizes.pop("gamma")
    unary, horizontal, vertical = random_problem(*sizes.values(), gaps, seed)
    scores = [scale * x.tanh().to(dtype).double() for x in (unary, *horizontal, *vertical)]
    # Roundings may decide otherwise whether a step is accepted: compared in double precision alone.
    accelerate = accelerate and dtype == torch.double
    options = {"gamma": gamma, "iterations": iterations, "accelerate": accelerate, "learned": learned}
    expected = everything(dense(dual_decomposition_reference, gaps), scores, dtype=torch.double, **options)
    actual = everything(dense(dual_decomposition, gaps), scores, dtype=dtype, **options)
    if (
        learned and gamma > 0 and scale / gamma > 10
    ):  # γ's derivative all but vanishes and is lost in rounding
        actual, expected = actual[:-1], expected[:-1]
    if gamma <= 0 and dtype == torch.float:
        # Where two labellings tie but for rounding, either is right, and derivatives jump between them.
        generator = torch.Generator().manual_seed(seed)
        moved = [x + 3e-6 * scale * torch.randn(x.shape, generator=generator) for x in scores]
        nearby = everything(dense(dual_decomposition_reference, gaps), moved, dtype=torch.double, **options)
        if any((x - y).abs().max() > 1e-6 for x, y in zip(expected[2:], nearby[2:]) if x.numel()):
            actual, expected = actual[:2], expected[:2]
    assert_close(actual, expected, tolerance)


@settings(max_examples=40)
@given(gaps=st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True), **SIZES)
def test_factored_equals_scores_of_every_edge(
    gaps: list[int], seed: int, scale: float, gamma: float, **sizes: int
) -> None:
    n, k, h, w = sizes.values()
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        scale * torch.randn(n, k, k, h, w, generator=generator, dtype=torch.double).tanh() for _ in range(2)
    )
    unary = scale * torch.randn(n, k, h, w, generator=generator, dtype=torch.double)

    def factored(unary: Tensor, left: Tensor, right: Tensor, **options: object) -> DualDecomposition:
        return dual_decomposition_factored(unary, left, right, gaps, **options)

    def written_out(unary: Tensor, left: Tensor, right: Tensor, gamma: Tensor) -> DualDecomposition:
        top = max(gaps)
        horizontal = [left[..., : max(0, w - g)] + right[..., min(g, w) :] for g in range(1, top + 1)]
        vertical = [left[..., : max(0, h - g), :] + right[..., min(g, h) :, :] for g in range(1, top + 1)]
        return dual_decomposition_reference(unary, horizontal, vertical, gamma=gamma)

    scores = [unary, left, right]
    actual = everything(factored, scores, gamma, torch.double)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "library", lambda name: None)
        plain = everything(factored, scores, gamma, torch.double)
    assert_close(actual[:-1], plain[:-1], 1e-10)
    if gaps == [*range(1, len(gaps) + 1)]:
        assert_close(actual[:-1], everything(written_out, scores, gamma, torch.double)[:-1], 1e-10)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_derivative_by_gamma(gamma: float) -> None:
    unary, horizontal, vertical = random_problem(1, 3, 3, 4, 2)

    def outputs(gamma: Tensor) -> tuple[Tensor, Tensor]:
        result = dual_decomposition(unary, horizontal, vertical, iterations=3, gamma=gamma)
        return result.logits, result.dual

    value = torch.tensor(gamma, dtype=torch.double, requires_grad=True)
    if gamma > 0:
        assert torch.autograd.gradcheck(outputs, value, eps=1e-7)
    else:
        assert torch.autograd.grad(outputs(value)[0].sum(), value)[0] == 0


@pytest.mark.parametrize("order", [(0, 3, 4, 1, 2), (0, 2, 1, 3, 4), (4, 3, 2, 1, 0)])
@pytest.mark.parametrize("factored", [False, True])
def test_scores_may_lie_in_memory_in_any_order(factored: bool, order: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 4, 4, 9, 18)] * 2 if factored else [(2, 4, 4, 9, 17), (2, 4, 4, 8, 18)]
    scores = [torch.randn(size, generator=generator, dtype=torch.double) for size in sizes]
    unary = torch.randn(2, 4, 9, 18, generator=generator, dtype=torch.double)

    def gradients(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in leaves]
        if factored:
            result = dual_decomposition_factored(unary, *leaves, gaps=(1, 2))
        else:
            result = dual_decomposition(unary, leaves[:1], leaves[1:])
        return torch.autograd.grad((result.logits * unary).sum(), leaves)

    back = sorted(range(5), key=order.__getitem__)
    permuted = [x.permute(order).contiguous().permute(back) for x in scores]
    for x, y in zip(gradients(permuted), gradients(scores), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_long_chains_keep_their_digits(dtype: torch.dtype) -> None:
    """Messages of 200 cells with large scores: their differences, not their sizes, must be exact."""
    unary, horizontal, vertical = random_problem(1, 3, 1, 200, 1, scale=20)
    scores = [x.to(dtype).double() for x in (unary, *horizontal, *vertical)]
    expected = everything(dense(dual_decomposition_reference, 1), scores, 1.0, torch.double)
    actual = everything(dense(dual_decomposition, 1), scores, 1.0, dtype)
    assert_close(actual[:-1], expected[:-1], 1e-4 if dtype == torch.float else 1e-12)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize(("gamma", "accelerate"), [(1.5, False), (-1.0, False), (1.5, True)])
def test_is_a_sound_operator(factored: bool, gamma: float, accelerate: bool) -> None:
    unary, horizontal, vertical = random_problem(2, 3, 4, 5, 2)
    scores = [*horizontal, *vertical]
    if factored:
        scores = [torch.randn(2, 3, 3, 4, 5, dtype=torch.double) for _ in range(2)]
    tensors = [x.requires_grad_() for x in scores]
    soft = torch.tensor(gamma, dtype=torch.double, requires_grad=True)
    arguments = (unary.requires_grad_(), tensors, soft, [1, 2], factored, 3, accelerate, True)
    torch.library.opcheck(torch.ops.structseg.dual_decomposition.default, arguments)


@pytest.mark.parametrize("gamma", [2.0, torch.tensor(2.0), torch.tensor(2.0, requires_grad=True)])
def test_compiles_without_a_graph_break(gamma: float | Tensor) -> None:
    unary, left = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 3, 4, 5)

    def function(unary: Tensor, left: Tensor) -> Tensor:
        return dual_decomposition_factored(2 * unary, left, -left, gamma=gamma).logits.square()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (compiled, function):
        leaves = [unary.clone().requires_grad_(), left.clone().requires_grad_()]
        gradients.append(torch.autograd.grad(run(*leaves).sum(), leaves))
    for actual, expected in zip(*gradients):
        torch.testing.assert_close(actual, expected)


def test_nothing_is_kept_without_gradients() -> None:
    unary, horizontal, vertical = random_problem(1, 3, 4, 5, 2)
    expected = dual_decomposition(unary, horizontal, vertical)
    unary.requires_grad_()
    with torch.no_grad():
        result = dual_decomposition(unary, horizontal, vertical)
    assert not result.logits.requires_grad
    assert torch.equal(result.logits, expected.logits)
    with torch.inference_mode():
        assert torch.equal(dual_decomposition(unary, horizontal, vertical).logits, expected.logits)


def test_what_is_kept_for_the_backward_pass_has_no_pairs_of_labels() -> None:
    k, h, w, iterations = 21, 8, 9, 5
    unary, horizontal, vertical = random_problem(2, k, h, w, 2)
    inputs = {x.data_ptr() for x in (unary, *horizontal, *vertical)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in inputs:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        dual_decomposition(unary.requires_grad_(), horizontal, vertical, iterations=iterations)
    numbers = 2 * h * w * (3 * 2 * 2 * iterations) * k
    assert sum(kept.values()) < 2.1 * numbers  # lines fill whole vectors, and offsets are kept


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize(("n", "h", "w"), [(5, 16, 32), (5, 8, 16), (3, 4, 8), (7, 2, 4)])
def test_images_are_computed_in_groups(
    monkeypatch: pytest.MonkeyPatch, n: int, h: int, w: int, factored: bool, threads: int
) -> None:
    """Groups of as few images as fill the vectors, the last one smaller, give what all together do."""
    generator = torch.Generator().manual_seed(0)
    k, gaps = 3, 2
    scores = [torch.randn(n, k, h, w, generator=generator, dtype=torch.double)]
    edges = [(h, w - 1), (h, w - 2), (h - 1, w), (h - 2, w)]
    sizes = [(h, w)] * 2 if factored else edges
    scores += [torch.randn(n, k, k, *size, generator=generator, dtype=torch.double) for size in sizes]
    layer = dual_decomposition_factored if factored else dense(dual_decomposition, gaps)
    weights = torch.randn(n, k, h, w, generator=generator, dtype=torch.double)
    before = torch.get_num_threads()

    def results() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in scores]
        gamma = torch.tensor(1.5, dtype=torch.double, requires_grad=True)
        result = layer(*leaves, gamma=gamma)
        by = torch.autograd.grad((weights * result.logits).sum() + 2 * result.dual[1], [*leaves, gamma])
        return [result.logits, result.dual, *by]

    try:
        torch.set_num_threads(threads)
        assert batch.group_size((n, k, h, w), torch.double) < n
        in_groups = results()
        monkeypatch.setattr(batch, "CACHE", 0)
        assert batch.group_size((n, k, h, w), torch.double) == n
        together = results()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(in_groups[2:-1], together[2:-1]))
    for x, y in zip(in_groups, together):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_far_less_is_kept_than_by_a_loop_over_steps() -> None:
    """At the size of the paper's grid, with inputs not counted on either side."""
    unary, horizontal, vertical = random_problem(2, 21, 33, 33, 2)
    inputs = [x.float().requires_grad_() for x in (unary, *horizontal, *vertical)]
    known = {x.untyped_storage().data_ptr() for x in inputs}

    def kept(function: Callable[..., Any]) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = function(inputs[0], inputs[1:3], inputs[3:])
        del result
        return sum(size for pointer, size in storages.items() if pointer not in known)

    assert 8 * kept(dual_decomposition) < kept(per_step_loop)


def test_two_runs_and_any_number_of_threads_give_the_same_bits() -> None:
    scores = [
        x for part in random_problem(2, 7, 9, 11, 2) for x in (part if isinstance(part, list) else [part])
    ]
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(everything(dense(dual_decomposition, 2), scores, 2.0, torch.float))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other))


def test_second_derivatives_are_refused() -> None:
    unary, horizontal, vertical = random_problem(1, 2, 3, 3, 1)
    unary.requires_grad_()
    logits = dual_decomposition(unary, horizontal, vertical).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), unary, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives .*dual_decomposition_reference"):
        gradient.sum().backward()


def test_any_strides_will_do() -> None:
    unary, horizontal, vertical = random_problem(2, 3, 4, 5, 2)
    expected = dual_decomposition(unary, horizontal, vertical)

    def odd(x: Tensor) -> Tensor:
        return x.transpose(1, -1).contiguous().transpose(1, -1)

    strided = dual_decomposition(odd(unary), [odd(x) for x in horizontal], [odd(x) for x in vertical])
    assert torch.equal(strided.logits, expected.logits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda u, h, v: (u.float(), h, v), "must be of one type"),
        (lambda u, h, v: (u.to("meta"), h, v), "on one device"),
        (lambda u, h, v: (u.long(), [x.long() for x in h], [x.long() for x in v]), "floating-point"),
    ],
)
def test_wrong_kinds_are_one_sentence(change: object, sentence: str) -> None:
    problem = change(*random_problem(1, 3, 4, 5, 2))
    with pytest.raises(ValueError, match=sentence):
        dual_decomposition(*problem)


@pytest.mark.parametrize(
    ("gaps", "side", "sentence"),
    [((), 5, "gaps must be"), ((0, 1), 5, "gaps must be"), ((1,), 4, r"right must be \[1, 3, 3, 4, 5\]")],
)
def test_wrong_factors_are_one_sentence(gaps: tuple[int, ...], side: int, sentence: str) -> None:
    left, right = torch.zeros(1, 3, 3, 4, 5), torch.zeros(1, 3, 3, 4, side)
    with pytest.raises(ValueError, match=sentence):
        dual_decomposition_factored(torch.zeros(1, 3, 4, 5), left, right, gaps)


@pytest.mark.parametrize("gamma", [torch.ones(2), torch.tensor(float("nan"))])
def test_wrong_gamma_is_one_sentence(gamma: Tensor) -> None:
    with pytest.raises(ValueError, match="gamma must be a"):
        dual_decomposition(*random_problem(1, 2, 2, 2, 1), gamma=gamma)


# The certificate


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


# Longer steps


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


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("learned", "dtype"), [(True, torch.double), (False, torch.double), (False, torch.float)]
)
@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize(("k", "h", "w"), [(11, 6, 9), (21, 6, 19), (40, 6, 9), (3, 1, 1)])
def test_gpu_kernels_equal_the_cpu(
    k: int, h: int, w: int, factored: bool, accelerate: bool, learned: bool, dtype: torch.dtype
) -> None:
    unary, horizontal, vertical = random_problem(2, k, h, w, 2)
    scores = [unary, *horizontal, *vertical]
    if factored:
        scores = [unary, *(random_problem(2, k * k, h, w, 1, s)[0].unflatten(1, (k, k)) for s in (1, 2))]
    solve = dual_decomposition_factored if factored else dense(dual_decomposition, 2)
    results = []
    for device in ("cpu", "cuda", "cuda"):
        leaves = [x.to(device, dtype).requires_grad_() for x in scores]
        gamma = torch.tensor(1.5, dtype=dtype, device=device, requires_grad=learned)
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            result = solve(*leaves, gamma=gamma, accelerate=accelerate)
            by = [x for x in leaves if x.numel()] + ([gamma] if learned else [])
            gradients = torch.autograd.grad(
                result.logits.square().sum(), by, allow_unused=True, materialize_grads=True
            )
            results.append([x.detach().cpu() for x in (result.logits, result.dual, *gradients)])
    exact = dtype == torch.double
    for cpu_result, first, second in zip(*results):
        assert torch.equal(first, second)
        if exact or not accelerate:  # roundings may decide otherwise whether a step is accepted
            tolerance = {} if exact else {"rtol": 1e-3, "atol": 1e-3}
            torch.testing.assert_close(first, cpu_result, **tolerance)


@pytest.mark.gpu
def test_gpu_kernels_do_not_wait_for_the_host() -> None:
    unary, horizontal, vertical = (
        [x.cuda() for x in t] if isinstance(t, list) else t.cuda() for t in random_problem(2, 5, 6, 9, 2)
    )
    gamma = torch.tensor(1.5, device="cuda")
    dual_decomposition(unary, horizontal, vertical, gamma=gamma)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        dual_decomposition(unary.requires_grad_(), horizontal, vertical, gamma=gamma, accelerate=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
