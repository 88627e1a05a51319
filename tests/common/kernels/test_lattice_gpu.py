"""The lattice's GPU source, run on an emulated GPU, against plain PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.kernels import gpu, lattice
from common.kernels.lattice import Lattice
from common.kernels.lattice_gpu import GpuLattice
from common.kernels.lattice_plain import PlainLattice
from common.kernels.mean_field import mean_field
from tests.common.kernels.emulation import Emulator

KERNELS = {
    *("extent", "corners", "fill", "neighbours"),
    *("splat", "carry", "blur", "slice", "update", "update_backward"),
}


class Emulators:
    """One for each type of numbers: lattices are built in single precision."""

    def __init__(self, folder: Path) -> None:
        self.of = {x: Emulator(folder, "lattice", sorted(KERNELS), x) for x in ("float", "double")}

    def launch(self, name: str, kernel: str, scalar: str, *arguments: Any) -> None:
        self.of[scalar].launch(name, kernel, scalar, *arguments)


@pytest.fixture(scope="module")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Emulators:
    return Emulators(tmp_path_factory.mktemp("lattice"))


@pytest.fixture
def on_gpu(emulators: Emulators, monkeypatch: pytest.MonkeyPatch) -> Emulators:
    """Lattices take themselves to be on a GPU."""
    monkeypatch.setattr(gpu, "launch", emulators.launch)
    monkeypatch.setattr(lattice, "_engine", GpuLattice)
    return emulators


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice, "_engine", PlainLattice)


def points(groups: int, count: int, d: int, spread: float) -> Tensor:
    """Of which a third lie close together, so that a vertex has many."""
    result = spread * torch.randn(groups, count, d, generator=torch.Generator().manual_seed(0))
    result[:, ::3] *= 0.01
    return result


def filtered(features: Tensor, values: Tensor) -> list[Tensor]:
    one = Lattice(features)
    plain = one.filter(values)
    number = torch.rand(features.shape[0] * features.shape[1], generator=torch.Generator().manual_seed(3))
    one.normalise(number, 1 + number)
    return [plain, one.filter(values), one.filter(values, reverse=True)]


@pytest.mark.parametrize(
    ("d", "spread", "columns"),
    [(1, 5.0, 4), (2, 2.0, 1), (3, 1.5, 3), (4, 1.0, 8), (5, 0.5, 21), (6, 1.0, 2)],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_filters_as_in_plain_pytorch(
    groups: int, d: int, spread: float, columns: int, request: pytest.FixtureRequest
) -> None:
    features = points(groups, 111, d, spread)
    values = torch.randn(222, columns, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    request.getfixturevalue("plain")
    expected = filtered(features, values)
    request.getfixturevalue("on_gpu")
    torch.testing.assert_close(filtered(features, values), expected, rtol=1e-5, atol=1e-5)


def field(k: int, matrices: bool, marginals: bool) -> list[Tensor]:
    """A mean field of two images and its derivatives, on lattices that hardly depend on rounding."""
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(2, k, 70, generator=generator, dtype=torch.double, requires_grad=True)
    weights: list = [2.0, 3.0]
    if matrices:
        weights = [torch.randn(k, k, generator=generator, dtype=torch.double) for _ in weights]
    filters = [Lattice(points(1, 70, 2, 1.0)), Lattice(points(2, 70, 5, 0.5))]
    filters[0].normalise(*[0.1 * torch.rand(70, generator=generator)] * 2)
    filters[1].normalise(None, 0.1 * torch.rand(140, generator=generator))
    leaves = [unary, *(weight.requires_grad_() for weight in weights if matrices)]
    result = mean_field(unary, filters, weights, 2, marginals)
    direction = torch.randn(result.shape, generator=generator, dtype=torch.double)
    return [result.detach(), *torch.autograd.grad(result, leaves, direction)]


@pytest.mark.parametrize(
    ("k", "matrices", "marginals"), [(1, False, True), (5, True, False), (21, False, False)]
)
def test_mean_fields_are_those_of_plain_pytorch(
    k: int, matrices: bool, marginals: bool, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("plain")
    expected = field(k, matrices, marginals)
    emulators = request.getfixturevalue("on_gpu")
    torch.testing.assert_close(field(k, matrices, marginals), expected, rtol=1e-5, atol=1e-5)
    assert emulators.of["double"].launched >= {"splat", "carry", "blur", "update", "update_backward"}


@pytest.mark.parametrize("matrices", [False, True])
def test_labels_that_take_more_than_a_warp(matrices: bool, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("plain")
    expected = field(150, matrices, True)
    request.getfixturevalue("on_gpu")
    torch.testing.assert_close(field(150, matrices, True), expected, rtol=1e-5, atol=1e-5)


def test_the_order_of_threads_changes_no_bit(on_gpu: Emulators) -> None:
    results = []
    for order in (0, 1, 2):
        for emulator in on_gpu.of.values():
            emulator.order(order)
        results.append(field(5, True, True))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, results[0], strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e8])
def test_what_has_no_place_is_refused(on_gpu: Emulators, value: float) -> None:
    features = points(2, 20, 3, 1.0)
    features[1, 4, 2] = value
    with pytest.raises(ValueError, match="finite numbers|standard deviations are too small"):
        GpuLattice(features)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_computes_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    features = points(2, 5000, 5, 0.5)
    values = torch.randn(10000, 21, generator=torch.Generator().manual_seed(1), dtype=dtype)
    results = [filtered(features.cuda(), values.cuda()) for _ in range(2)]
    assert isinstance(Lattice(features.cuda()).engine, GpuLattice)
    assert all(torch.equal(x, y) for x, y in zip(*results))
    monkeypatch.setattr(lattice, "_engine", PlainLattice)
    expected = filtered(features, values)
    torch.testing.assert_close([x.cpu() for x in results[0]], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_no_more_waiting_for_a_gpu_than_once_per_lattice() -> None:
    features, values = points(2, 5000, 5, 0.5).cuda(), torch.rand(10000, 21).cuda()
    Lattice(features).filter(values)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            Lattice(features).filter(values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) <= 1
