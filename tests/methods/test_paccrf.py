"""PAC-CRF: its updates are the published ones, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.paccrf import PacCRF
from tests.methods.layers import CLASSES, computes_in_float32, example, has_right_derivatives, moved


def layer(**options: object) -> PacCRF:
    """A layer whose parameters are not those that it starts with."""
    return moved(PacCRF(CLASSES, 1, **{"size": 3, "dilations": [2, 1]} | options), 0.2)


def published(method: PacCRF, images: Tensor, unary: Tensor) -> Tensor:
    """The updates as sums over pixels and the displacements of their windows."""
    h, w = images.shape[2:]
    scores = unary
    for _ in range(method.iterations):
        marginals, scores = scores.softmax(dim=1), method.weight * unary
        for filters, width, dilation in zip(method.filters, method.widths, method.dilations):
            for y, x, row, column in torch.cartesian_prod(*map(torch.arange, (h, w, 3, 3))).tolist():
                v, u = y + (row - 1) * dilation, x + (column - 1) * dilation
                if 0 <= v < h and 0 <= u < w:
                    distance = (images[:, :, y, x] - images[:, :, v, u]).square().sum(dim=1, keepdim=True)
                    affinity = torch.exp(-distance / (method.colour * width.exp()) ** 2 / 2)
                    message = marginals[:, :, v, u] @ filters[:, :, row, column].mT
                    scores = scores.clone()
                    scores[:, :, y, x] -= affinity * message
    return scores


def test_updates_are_the_published_ones() -> None:
    images, unary = example(6, 7)
    method = layer(iterations=2)
    with torch.no_grad():
        expected = published(method, images, unary)
        torch.testing.assert_close(method.structure(images, unary, unary), expected)


def test_starts_as_potts_without_the_middle() -> None:
    filters = PacCRF(CLASSES, 1).filters
    assert filters.shape == (2, CLASSES, CLASSES, 5, 5)
    assert not filters[:, :, :, 2, 2].any() and not filters[:, range(CLASSES), range(CLASSES)].any()
    assert torch.equal(filters[0, 0, 1], filters[1, 2, 1])
    falling = torch.exp(-((torch.arange(-2, 3) / 1.25) ** 2) / 2)
    expected = 25 * torch.outer(falling, falling) / falling.sum() ** 2
    torch.testing.assert_close(filters[0, 0, 1, 0], expected[0])
    torch.testing.assert_close(PacCRF(CLASSES, 1, strength=0.1).filters, 0.1 * filters)


def test_works_at_the_size_of_the_images() -> None:
    images, unary = example(16, 24)
    small = unary[:, :, ::8, ::8]
    method = layer()
    expected = method.structure(images, unary, method.enlarged(small, images))
    torch.testing.assert_close(method.structure(images, small, small), expected)


def test_on_the_grid_it_sees_the_image_resized() -> None:
    images, unary = example(12, 14)
    unary = unary[:, :, ::2, ::2]
    small = torch.nn.functional.interpolate(images, (6, 7), mode="bilinear", antialias=True)
    expected = layer().structure(small, unary, unary)
    torch.testing.assert_close(layer(grid=1).structure(images, unary, unary), expected)


def test_derivatives_of_scores_and_parameters() -> None:
    assert has_right_derivatives(layer(iterations=2), *example(4, 5), fast=True)


def test_half_precision_is_computed_in_float32() -> None:
    assert computes_in_float32(PacCRF(CLASSES, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"size": 4},
        {"dilations": []},
        {"dilations": [0]},
        {"colour": 0},
        {"strength": 0},
        {"grid": 2},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        PacCRF(CLASSES, 1, **options)
