"""The kernels of dual decomposition against the plain version, on a CPU and on a GPU."""

from __future__ import annotations

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
    DualDecomposition,
    dual_decomposition,
    dual_decomposition_factored,
    dual_decomposition_reference,
)
from tests.methods.decompositions import GAMMAS, assert_close, dense, everything, random_problem

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
