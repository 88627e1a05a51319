"""The permutohedral lattice against sums over all pairs of points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.kernels.lattice import Lattice


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
    lattice.normalise(norm)
    torch.testing.assert_close(lattice.filter(values), expected)


def test_points_too_far_apart_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="standard deviations are too small"):
        Lattice(1e6 * points(1, 20, 5))
