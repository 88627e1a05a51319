"""Entropies of windows: kernels of the CPU and of an emulated GPU, and PyTorch, against explicit windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.kernels import gpu, windows
from common.kernels.windows import window_entropies
from tests.common.kernels.emulation import Emulator

RIDGE = 5e-4
KERNELS = [
    f"{name}_{radius}" for name in ("products", "entropies", "stencils", "apply") for radius in range(1, 6)
]


def example(b: int = 3, h: int = 11, w: int = 23, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, b, h, w, generator=generator, dtype=torch.double).to(dtype)
    return first, (second > 0.5).to(dtype)


def written_out(first: Tensor, second: Tensor, radius: int, scale: float = 1.0) -> Tensor:
    """By the inverse and the determinant, as published, of windows that are centred one by one."""
    y, p = (scale * x.double().unfold(1, radius, 1).unfold(2, radius, 1).flatten(3) for x in (second, first))
    y, p = (x.flatten(1, 2) - x.flatten(1, 2).mean(1, keepdim=True) for x in (y, p))
    ridge = RIDGE * torch.eye(radius**2, dtype=torch.double)
    inverse = torch.linalg.inv(p.mT @ p + ridge)
    conditional = y.mT @ y - (y.mT @ p) @ inverse @ (p.mT @ y)
    return torch.logdet(conditional + ridge) / 2


def derivatives(function: object, first: Tensor, second: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    """The entropies, and the derivative of a weighted sum of them by the first map."""
    leaf = first.clone().requires_grad_()
    values = function(leaf, second, *arguments)  # type: ignore[operator]
    weights = torch.linspace(-1, 2, len(values), dtype=torch.double)
    return values.detach(), torch.autograd.grad((weights * values).sum(), leaf)[0]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("windows"), "windows", KERNELS, "float")


@pytest.fixture(params=["kernel", "rows", "all rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "kernel":
        monkeypatch.setattr(windows, "_compiled", lambda maps, radius: False)
        monkeypatch.setattr(windows, "BLOCK", 1 if request.param == "rows" else 2**30)


@pytest.mark.parametrize("radius", range(1, 7))
@pytest.mark.usefixtures("way")
def test_equals_every_window_written_out(radius: int) -> None:
    first, second = example()
    actual = derivatives(window_entropies, first, second, radius, RIDGE, 0.25)
    expected = derivatives(written_out, first, second, radius, 0.25)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("h", "w"), [(5, 5), (5, 6), (6, 8), (5, 9), (6, 15), (9, 16), (7, 17), (4, 40), (3, 3)]
)
def test_any_size(h: int, w: int) -> None:
    maps = example(2, h, w)
    actual = derivatives(window_entropies, *maps, 3, RIDGE)
    torch.testing.assert_close(actual, derivatives(written_out, *maps, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_of_what_hardly_varies_no_digit_is_lost(dtype: torch.dtype) -> None:
    """Probabilities near one: their mean is 1e5 times their deviation."""
    first, second = example(2, 40, 37)
    first = (1 - 1e-5 * first).to(dtype)
    actual = derivatives(window_entropies, first, second.to(dtype), 3, RIDGE)
    expected = derivatives(written_out, first, second, 3)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual[1].double(), expected[1].double(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("radius", "h", "w"), [(1, 3, 40), (2, 11, 33), (3, 40, 23), (3, 5, 5), (4, 9, 70), (5, 12, 11)]
)
def test_the_cuda_source_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, emulator: Emulator, radius: int, h: int, w: int
) -> None:
    maps = example(2, h, w, torch.float)
    expected = derivatives(window_entropies, *maps, radius, RIDGE, 0.25)
    monkeypatch.setattr(windows, "_compiled", lambda maps, radius: False)
    monkeypatch.setattr(windows, "_on_gpu", lambda maps, radius: True)
    monkeypatch.setattr(gpu, "launch", emulator.launch)
    emulator.launched.clear()
    actual = derivatives(window_entropies, *maps, radius, RIDGE, 0.25)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=1e-9)
    assert emulator.launched == {
        f"{name}_{radius}" for name in ("products", "entropies", "stencils", "apply")
    }


def test_maps_that_are_not_finite_have_no_entropy() -> None:
    first, second = example()
    first[1, 4, 4] = torch.nan
    assert window_entropies(first, second, 2, RIDGE).isnan().tolist() == [False, True, False]


def test_is_a_sound_operator() -> None:
    first, second = example()
    arguments = (first.requires_grad_(), second, 2, RIDGE, 1.0)
    torch.library.opcheck(torch.ops.structseg.window_entropies.default, arguments)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(derivatives(window_entropies, *example(), 3, RIDGE))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, results[0]))


def test_second_derivatives_are_refused() -> None:
    leaf = example()[0].requires_grad_()
    values = window_entropies(leaf, example()[1], 2, RIDGE)
    (gradient,) = torch.autograd.grad(values.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives .* are not available"):
        gradient.sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize(
    ("radius", "h", "w"), [(1, 40, 33), (3, 129, 129), (3, 5, 300), (5, 30, 31), (6, 20, 20)]
)
def test_a_gpu_computes_the_same(radius: int, h: int, w: int, dtype: torch.dtype) -> None:
    maps = example(3, h, w, dtype)
    expected = derivatives(window_entropies, *maps, radius, RIDGE, 0.25)
    leaf = maps[0].cuda().requires_grad_()
    values = window_entropies(leaf, maps[1].cuda(), radius, RIDGE, 0.25)
    weights = torch.linspace(-1, 2, len(values), dtype=torch.double, device="cuda")
    (gradient,) = torch.autograd.grad((weights * values).sum(), leaf)
    torch.testing.assert_close(values.cpu(), expected[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradient.cpu(), expected[1], rtol=1e-5, atol=1e-8)
