"""Sums of products over windows: by the CPU's kernel and by PyTorch, against every window written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.kernels import windows
from common.kernels.windows import window_products


def example(b: int = 3, h: int = 7, w: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, b, h, w, generator=generator, dtype=torch.double)
    return first, second


def written_out(first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    parts = [x.unfold(1, radius, 1).unfold(2, radius, 1).flatten(3).flatten(1, 2) for x in (first, second)]
    every = torch.cat(parts, dim=2)
    return every.mT @ every, every.sum(1)


@pytest.fixture(params=["kernel", "blocks", "one block"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "kernel":
        monkeypatch.setattr(windows, "_compiled", lambda maps, radius: False)
        monkeypatch.setattr(windows, "BLOCK", 1 if request.param == "blocks" else 2**30)


@pytest.mark.parametrize("radius", [1, 2, 3, 6])
@pytest.mark.usefixtures("way")
def test_equals_every_window_written_out(radius: int) -> None:
    first, second = example()
    leaves = [x.clone().requires_grad_() for x in (first, first)]
    actual, expected = (
        function(leaf, second, radius) for function, leaf in zip((window_products, written_out), leaves)
    )
    torch.testing.assert_close(actual, expected)
    weights = [torch.randn_like(x) for x in expected]
    gradients = [
        torch.autograd.grad(outputs, leaf, weights) for outputs, leaf in zip((actual, expected), leaves)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("width", [3, 4, 5, 10, 11, 34, 35, 36])
def test_any_width(width: int) -> None:
    first, second = example(2, 5, width)
    torch.testing.assert_close(window_products(first, second, 3), written_out(first, second, 3))


def test_is_a_sound_operator() -> None:
    first, second = example()
    arguments = (first.requires_grad_(), second, 2)
    torch.library.opcheck(torch.ops.structseg.window_products.default, arguments)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = example()[0].requires_grad_()
            products, sums = window_products(leaf, example()[1], 3)
            results.append([products, sums, *torch.autograd.grad(products.square().sum(), leaf)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, results[0]))


def test_second_derivatives_are_refused() -> None:
    leaf = example()[0].requires_grad_()
    products, _ = window_products(leaf, example()[1], 2)
    (gradient,) = torch.autograd.grad(products.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()
