"""Messages between the pixels of windows, against their definition pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.kernels.neighbours import squared_distances, window_messages


def example(size: int, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values `[2, 3, 6, 7]`, symmetric affinities, and matrices for 4 classes."""
    generator = torch.Generator().manual_seed(0)
    values, features = (
        torch.randn(2, channels, 6, 7, generator=generator, dtype=torch.double) for channels in (3, 2)
    )
    affinities = (-squared_distances(features, size, dilation)).exp()
    return values, affinities, torch.randn(4, 3, size, size, generator=generator, dtype=torch.double)


def by_definition(values: Tensor, affinities: Tensor, matrices: Tensor, dilation: int) -> Tensor:
    n, _, h, w = values.shape
    size = affinities.shape[1]
    result = values.new_zeros(n, len(matrices), h, w)
    for y, x, row, column in torch.cartesian_prod(*(torch.arange(s) for s in (h, w, size, size))).tolist():
        other = y + (row - size // 2) * dilation, x + (column - size // 2) * dilation
        if 0 <= other[0] < h and 0 <= other[1] < w:
            message = values[:, :, other[0], other[1]] @ matrices[:, :, row, column].mT
            result[:, :, y, x] += affinities[:, row, column, y, x, None] * message
    return result


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), (3, 9)])
def test_messages_are_the_weighted_sums(size: int, dilation: int) -> None:
    values, affinities, matrices = example(size, dilation)
    expected = by_definition(values, affinities, matrices, dilation)
    torch.testing.assert_close(window_messages(values, affinities, matrices, dilation), expected)
    eye = torch.eye(3, dtype=torch.double).view(3, 3, 1, 1).expand(-1, -1, size, size)
    expected = by_definition(values, affinities, eye, dilation)
    torch.testing.assert_close(window_messages(values, affinities, dilation=dilation), expected)


@pytest.mark.parametrize("matrices", [True, False])
def test_derivatives(matrices: bool) -> None:
    values, _, matrix = example(3, 2)
    features = torch.rand(2, 2, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    distances = squared_distances(features, 3, 2)

    def messages(values: Tensor, width: Tensor, matrix: Tensor) -> Tensor:
        return window_messages(values, (-distances / width).exp(), matrix if matrices else None, 2)

    width = torch.tensor(1.5, dtype=torch.double)
    inputs = [x.requires_grad_() for x in (values, width, matrix)]
    assert torch.autograd.gradcheck(messages, inputs)
    if not matrices:
        inputs.pop()
    assert torch.autograd.gradgradcheck(lambda *some: messages(*some, *([matrix] * (3 - len(some)))), inputs)


def test_distances_are_squared_and_of_the_window() -> None:
    features = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    distances = squared_distances(features, 3, 2)
    assert not distances[:, 1, 1].any()
    expected = (features[:, :, 2:] - features[:, :, :-2]).square().sum(dim=1)
    torch.testing.assert_close(distances[:, 2, 1, :-2], expected)
    torch.testing.assert_close(distances[:, 0, 1, 2:], expected)
