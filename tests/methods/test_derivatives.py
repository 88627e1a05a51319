"""Derivatives of all kinds are right or refused: none is zero without a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad

from methods.affinity import affinity_field
from methods.base import cross_entropy
from methods.bce import binary_cross_entropy
from methods.boundary_loss import boundary_loss
from methods.ddcrf import dual_decomposition_factored
from methods.dense_crf_loss import dense_crf_energy
from methods.densecrf import crf_scores, dense_crf
from methods.dice import Dice
from methods.gated_crf_loss import gated_crf_energy
from methods.jaccard import Jaccard
from methods.pyramid import Pyramid
from methods.rmi import RMILoss, conditional_entropy

K = 3
Function = Callable[[Tensor], Tensor]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


LABELS = torch.randint(K, (1, 8, 9), generator=torch.Generator().manual_seed(1))
LABELS[0, :2] = 255
IMAGES = torch.randint(256, (1, 3, 8, 9), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
LEFT, RIGHT = numbers(1, K, K, 8, 9, seed=3), numbers(1, K, K, 8, 9, seed=4)
UNARY = numbers(1, K, 8, 9, seed=5)
WEIGHTS = numbers(1, K, 8, 9, seed=6)


def layer(unary: Tensor, left: Tensor = LEFT, gamma: float | Tensor = 2.0) -> Tensor:
    """A number of the layer's logits that is linear in them."""
    result = dual_decomposition_factored(unary, left, RIGHT, gamma=gamma, iterations=3)
    return (WEIGHTS * result.logits).sum() + result.dual.sum()


FUNCTIONS: dict[str, tuple[Function, Tensor]] = {
    "the layer by unary scores": (layer, UNARY),
    "the layer by pairwise scores": (lambda x: layer(UNARY, x), LEFT),
    "the layer by gamma": (lambda x: layer(UNARY, gamma=x), torch.tensor(1.5, dtype=torch.double)),
    "a square of the layer": (lambda x: layer(x).square() / 100, UNARY),
    "rmi": (lambda x: RMILoss(K, radius=2, pool_size=2)(x, LABELS), UNARY),
    "rmi with a softmax": (lambda x: RMILoss(K, radius=2, pool_size=1, softmax=True)(x, LABELS), UNARY),
    "rmi alone": (lambda x: RMILoss(K, radius=2, pool_size=1, weight=0.0)(x, LABELS), UNARY),
    "entropy by the truth": (lambda x: conditional_entropy(x, UNARY.sigmoid(), 2).sum(), WEIGHTS.sigmoid()),
    "bce": (lambda x: binary_cross_entropy(x, LABELS), UNARY),
    "affinity": (lambda x: affinity_field(x.softmax(1), LABELS), UNARY),
    "pyramid": (lambda x: Pyramid(K, 1).loss(x, LABELS), UNARY),
    "dice": (lambda x: Dice(K, 1).loss(x, LABELS), UNARY),
    "cross-entropy": (lambda x: cross_entropy(x, LABELS), UNARY),
    "jaccard": (lambda x: Jaccard(K, 1).loss(x, LABELS), UNARY),
    "boundary": (lambda x: boundary_loss(x.softmax(1), LABELS, WEIGHTS), UNARY),
    "dense crf energy": (lambda x: dense_crf_energy(x.softmax(1), LABELS, IMAGES) / 100, UNARY),
    "gated crf energy": (
        lambda x: gated_crf_energy(x.softmax(1), LABELS, IMAGES, sigma_rgb=1, stride=2),
        UNARY,
    ),
    "dense crf": (lambda x: (WEIGHTS * dense_crf(IMAGES, x, iterations=2)).sum(), UNARY.softmax(1)),
    "crf scores by weights": (
        lambda x: (WEIGHTS * crf_scores(IMAGES, UNARY, (2.0, 3.0, 20.0), [x, 2 * x], 2)).sum(),
        torch.eye(K, dtype=torch.double),
    ),
}
TWICE = [name for name in FUNCTIONS if not name.startswith(("the layer", "a square", "rmi"))]
REFUSED = [name for name in FUNCTIONS if name not in TWICE]


def difference(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """The derivative along a direction, by finite differences."""
    step = 1e-6
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def gradient(function: Function, x: Tensor) -> Tensor:
    """The derivative in reverse mode, by the kernels."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives_of_all_kinds_agree(name: str) -> None:
    function, x = FUNCTIONS[name]
    direction = numbers(*x.shape, seed=9)
    expected = difference(function, x, direction)
    assert expected.abs() > 1e-6

    def dual() -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction))).tangent

    values = {
        "reverse": (gradient(function, x) * direction).sum(),
        "forward": dual(),
        "func.jvp": torch.func.jvp(function, (x,), (direction,))[1],
        "func.grad": (torch.func.grad(function)(x) * direction).sum(),
        "functional.jvp": torch.autograd.functional.jvp(function, x, direction)[1]
        if name in TWICE
        else expected,
    }
    for kind, value in values.items():
        torch.testing.assert_close(
            value, expected, rtol=1e-5, atol=1e-6, msg=lambda text, kind=kind: f"{kind}: {text}"
        )


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_right(name: str) -> None:
    function, x = FUNCTIONS[name]
    direction = numbers(*x.shape, seed=9)
    expected = difference(lambda place: gradient(function, place), x, direction)
    for strict in (False, True):
        actual = torch.autograd.functional.hvp(function, x, direction, strict=strict)[1]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_or_refused(name: str) -> None:
    function, x = FUNCTIONS[name]
    with pytest.raises(RuntimeError, match="second derivatives .* are not available"):
        torch.autograd.functional.hvp(function, x, torch.ones_like(x), strict=False)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "gamma" not in name])
def test_second_derivatives_by_torch_func_are_right(name: str) -> None:
    """There, everything is plain PyTorch."""
    function, x = FUNCTIONS[name]
    direction = numbers(*x.shape, seed=9)
    expected = difference(lambda place: gradient(function, place), x, direction)
    actual = torch.func.jvp(torch.func.grad(function), (x,), (direction,))[1]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


BATCHED = [
    "the layer by unary scores", "rmi", "bce", "cross-entropy", "jaccard", "boundary", "dense crf",
    "dense crf energy", "gated crf energy",
]  # fmt: skip


@pytest.mark.parametrize("name", BATCHED)
def test_what_can_be_batched(name: str) -> None:
    function, x = FUNCTIONS[name]
    several = torch.stack([x, x.flip(2), x])
    values = torch.func.vmap(function)(several)
    torch.testing.assert_close(values, torch.stack([function(one) for one in several]))


def test_what_has_no_derivative_is_refused() -> None:
    probabilities = UNARY.softmax(1).requires_grad_()
    with pytest.raises(ValueError, match="pydensecrf gives no gradient: use the engine torch, or detach"):
        dense_crf(IMAGES, probabilities, engine="pydensecrf")
    with torch.no_grad():
        assert dense_crf(IMAGES, probabilities, engine="pydensecrf").shape == probabilities.shape


def layer_of(unary: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return dual_decomposition_factored(unary, left, right, iterations=2).logits


def scores(n: int, h: int, w: int) -> list[Tensor]:
    return [numbers(n, *lead, h, w).float() for lead in ((K,), (K, K), (K, K))]


@pytest.mark.parametrize("dynamic", [None, True])
def test_the_layer_is_compiled_for_all_grids_at_once(dynamic: bool | None) -> None:
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(layer_of, backend=counter, fullgraph=True, dynamic=dynamic)
    for h, w in ((8, 9), (11, 10), (14, 9), (7, 20), (13, 12)):
        tensors = scores(1, h, w)
        torch.testing.assert_close(compiled(*tensors), layer_of(*tensors))
    assert counter.frame_count == (1 if dynamic else 2)


@pytest.mark.parametrize("strict", [False, True])
def test_the_layer_is_exported_for_all_grids_at_once(strict: bool) -> None:
    class Layer(torch.nn.Module):
        def forward(self, unary: Tensor, left: Tensor, right: Tensor) -> Tensor:
            return layer_of(unary, left, right)

    h, w = (torch.export.Dim(name, min=3, max=300) for name in ("h", "w"))
    shapes = ({2: h, 3: w}, {3: h, 4: w}, {3: h, 4: w})
    program = torch.export.export(Layer(), tuple(scores(1, 8, 9)), dynamic_shapes=shapes, strict=strict)
    for other in (scores(1, 20, 5), scores(1, 7, 31)):
        torch.testing.assert_close(program.module()(*other), layer_of(*other))
