"""ConvCRF: its updates are the published ones, in windows of the image's cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.convcrf import ConvCRF
from tests.methods.layers import CLASSES, computes_in_float32, example, has_right_derivatives, moved


def layer(**options: object) -> ConvCRF:
    """A layer whose parameters are not those that it starts with."""
    return moved(ConvCRF(CLASSES, 1, **{"size": 5, "blur": 1, "weight": 0.3} | options), 0.1)


def published(method: ConvCRF, image: Tensor, unary: Tensor) -> Tensor:
    """The updates by sums over all pairs of pixels, those of a window kept; one image, without cells."""
    h, w = image.shape[1:]
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    near = torch.cdist(places, places, p=torch.inf) <= method.size // 2
    kernel = torch.zeros(h * w, h * w, dtype=torch.double)
    for index, features in enumerate((places, image.flatten(1).mT)):
        factors = torch.stack([method.widths[index], method.strengths[index]]).exp()
        width, strength = torch.tensor(method.first[index]) * factors
        distances = (features[:, None] - features).square().sum(dim=2)
        kernel += strength * torch.exp(-distances / width**2 / 2)
    own = unary.flatten(1).log_softmax(dim=0)
    scores, share = own, method.share[:, None]
    for _ in range(method.iterations):
        scores = (1 - share) * own + share * (scores.softmax(dim=0) @ (kernel * near))
    return scores.view(unary.shape)


def test_updates_are_the_published_ones() -> None:
    images, unary = example(7, 8)
    method = layer()
    actual = method.structure(images, unary, unary)
    for image, one, result in zip(images, unary, actual):
        torch.testing.assert_close(result, published(method, image, one))


@pytest.mark.parametrize(("h", "w"), [(12, 16), (13, 14), (11, 9)])
def test_works_on_cells_of_any_size(h: int, w: int) -> None:
    """Where all pixels of a cell are alike, messages are those between cells."""
    images, unary = example(-(-h // 4), -(-w // 4))
    images, unary = (x.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :h, :w] for x in (images, unary))
    assert layer(blur=4, iterations=2).structure(images, unary, unary).shape == (2, CLASSES, h, w)


def test_messages_of_cells_are_those_between_their_means() -> None:
    images, unary = example(8, 12)
    method, cells = layer(blur=4, iterations=1), layer(iterations=1, position=(0.75, 3.0))
    marginals, small = (torch.nn.functional.avg_pool2d(x, 4) for x in (unary.softmax(1), images))
    share = method.share.view(-1, 1, 1)
    messages = cells.structure(small, marginals, marginals.log()) - (1 - share) * marginals.log()
    enlarged = torch.nn.functional.interpolate(messages, scale_factor=4, mode="bilinear")
    expected = (1 - share) * unary.log_softmax(1) + enlarged
    torch.testing.assert_close(method.structure(images, unary, unary), expected)


def test_works_at_the_size_of_the_images() -> None:
    images, unary = example(16, 24)
    small = unary[:, :, ::8, ::8]
    method = layer()
    expected = method.structure(images, unary, method.enlarged(small, images))
    torch.testing.assert_close(method.structure(images, small, small), expected)


def test_derivatives_of_scores_and_parameters() -> None:
    assert has_right_derivatives(layer(iterations=2, blur=2, size=3), *example(5, 6), fast=True)


def test_half_precision_is_computed_in_float32() -> None:
    assert computes_in_float32(ConvCRF(CLASSES, 1))


@pytest.mark.parametrize(
    "options",
    [{"iterations": 0}, {"size": 4}, {"blur": 0}, {"position": [1]}, {"colour": [0, 1]}, {"weight": 1}],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConvCRF(CLASSES, 1, **options)
