"""The permutohedral lattice against sums over all pairs of points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.kernels import cpu
from common.kernels.lattice import Lattice
from common.kernels.lattice_plain import PlainLattice
from common.kernels.mean_field import mean_field


def points(groups: int, count: int, d: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(groups, count, d, generator=torch.Generator().manual_seed(0))


def over_all_pairs(features: Tensor, values: Tensor) -> Tensor:
    """Σ_j exp(−|f_i − f_j|² / 2)·v_j within each group."""
    distances = torch.cdist(features.double(), features.double())
    return (torch.exp(-(distances**2) / 2) @ values.double().view(*features.shape[:2], -1)).flatten(0, 1)


@pytest.mark.parametrize(
    ("d", "spread", "error"), [(1, 5.0, 0.06), (2, 2.0, 0.12), (3, 1.5, 0.2), (5, 0.5, 0.12), (5, 1.0, 0.5)]
)
def test_filters_with_a_gaussian(d: int, spread: float, error: float) -> None:
    """Up to the lattice's own error, relative to the values' spread: large where points are far apart."""
    features = points(2, 500, d, spread)
    values = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(1000, 1)
    lattice = Lattice(features)
    actual = lattice.filter(values) / lattice.filter(ones)
    expected = over_all_pairs(features, values) / over_all_pairs(features, ones)
    assert (actual - expected).square().mean().sqrt() < error * expected.std()


@pytest.mark.parametrize("d", [1, 2, 5])
def test_reverse_is_the_transpose_and_the_derivative(d: int) -> None:
    lattice = Lattice(points(1, 60, d))
    identity = torch.eye(60, dtype=torch.double)
    torch.testing.assert_close(lattice.filter(identity), lattice.filter(identity, reverse=True).mT)
    values = torch.randn(60, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, values)


def test_groups_do_not_see_each_other() -> None:
    features = points(3, 40, 2)
    values = torch.randn(120, 2, generator=torch.Generator().manual_seed(2))
    apart = [
        Lattice(part).filter(v) for part, v in zip(features.split(1), values.view(3, 40, 2), strict=True)
    ]
    assert torch.equal(Lattice(features).filter(values), torch.cat(apart))


def test_normalised_on_both_sides() -> None:
    lattice, norm = Lattice(points(1, 30, 2)), torch.rand(30)
    values = torch.rand(30, 2)
    expected = norm.unsqueeze(1) * lattice.filter(norm.unsqueeze(1) * values)
    lattice.normalise(norm, norm)
    torch.testing.assert_close(lattice.filter(values), expected)


def test_points_too_far_apart_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="standard deviations are too small"):
        Lattice(1e6 * points(1, 20, 5))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_points_that_are_not_finite_are_one_sentence(value: float) -> None:
    features = points(2, 20, 3)
    features[1, 4, 2] = value
    with pytest.raises(ValueError, match="finite numbers|standard deviations are too small"):
        Lattice(features)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "library", lambda name: None)


def filtered(features: Tensor, values: Tensor) -> tuple[Lattice, list[Tensor]]:
    """By a lattice that is normalised differently before and after, there and back."""
    lattice = Lattice(features)
    number = torch.rand(features.shape[0] * features.shape[1], generator=torch.Generator().manual_seed(3))
    lattice.normalise(number, 1 + number)
    return lattice, [lattice.filter(values), lattice.filter(values, reverse=True)]


@pytest.mark.parametrize(("d", "spread"), [(1, 5.0), (2, 2.0), (3, 1.5), (4, 1.0), (5, 0.5), (6, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_equals_plain(
    d: int, spread: float, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    features = points(2, 300, d, spread)
    values = torch.randn(600, 21, generator=torch.Generator().manual_seed(1), dtype=dtype)
    compiled, results = filtered(features, values)
    request.getfixturevalue("without_compiler")
    plain, expected = filtered(features, values)
    assert isinstance(plain.engine, PlainLattice) and not isinstance(compiled.engine, PlainLattice)
    assert compiled.engine.size == plain.engine.size
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_one_group_serves_several_images(images: int, request: pytest.FixtureRequest) -> None:
    features, values = points(1, 50, 2), torch.rand(50 * images, 5)
    number = torch.rand(50)
    for _ in range(2):
        lattice = Lattice(features)
        lattice.normalise(number, None)
        apart = torch.cat([lattice.filter(part) for part in values.split(50)])
        torch.testing.assert_close(lattice.filter(values), apart)
        request.getfixturevalue("without_compiler")


def field(k: int, matrices: bool, marginals: bool) -> tuple[Tensor, list[Tensor]]:
    """A mean field of two images and its derivatives, all in float64."""
    generator = torch.Generator().manual_seed(0)
    unary = torch.randn(2, k, 70, generator=generator, dtype=torch.double, requires_grad=True)
    weights: list = [2.0, 3.0]
    if matrices:
        weights = [torch.randn(k, k, generator=generator, dtype=torch.double) for _ in weights]
    filters = [Lattice(points(1, 70, 2)), Lattice(points(2, 70, 5, 0.5))]
    for one in filters:
        one.normalise(None, one.filter(torch.ones(140, 1)).squeeze(1)[: 70 * one.engine.groups].reciprocal())
    leaves = [unary, *(weight.requires_grad_() for weight in weights if matrices)]
    result = mean_field(unary, filters, weights, 3, marginals)
    direction = torch.randn(result.shape, generator=generator, dtype=torch.double)
    return result, [*torch.autograd.grad(result, leaves, direction)]


@pytest.mark.parametrize("k", [1, 4, 21, 60])
@pytest.mark.parametrize(("matrices", "marginals"), [(False, True), (True, False)])
def test_fused_mean_field_equals_the_plain_one(
    k: int, matrices: bool, marginals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, derivatives = field(k, matrices, marginals)
    monkeypatch.setattr("common.kernels.mean_field.transformed", lambda: True)
    expected, others = field(k, matrices, marginals)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(derivatives, others)


@pytest.mark.parametrize("k", [4, 21])
def test_the_same_bits_with_any_number_of_threads(k: int) -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(field(k, False, True)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
