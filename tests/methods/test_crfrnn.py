"""CRF-RNN: its updates are the published ones, at full size or on the output grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import entries, reading
from methods import densecrf
from methods.crfrnn import CRFRNN
from tests.conftest import ROOT
from tests.methods.layers import has_right_derivatives

CLASSES = 4
NARROW = {"gaussian": (2, 3.0), "bilateral": (6, 30, 5.0)}


def example(height: int = 9, width: int = 10, cells: int = 1) -> tuple[Tensor, Tensor]:
    """Two images of smooth colours, and the scores of so many times fewer cells."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(2, 3, 3, 3, generator=generator)
    images = functional.interpolate(coarse, (height, width), mode="bilinear")
    shape = (2, CLASSES, height // cells, width // cells)
    return images, torch.randn(shape, generator=generator, dtype=torch.double)


def layer(**options: object) -> CRFRNN:
    """A layer whose matrices are not those that it starts with."""
    torch.manual_seed(1)
    result = CRFRNN(CLASSES, 1, **options).double()
    with torch.no_grad():
        for matrix in result.parameters():
            matrix += 0.2 * torch.randn(CLASSES, CLASSES)
    return result


class AllPairs:
    """The mean over all pixels of an image, weighted by the Gaussian of their distances, in float64."""

    def __init__(self, features: Tensor) -> None:
        kernel = torch.exp(-(torch.cdist(features.double(), features.double()) ** 2) / 2)
        self.kernel = kernel / kernel.sum(2, keepdim=True)

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        images = values.unflatten(0, self.kernel.shape[:2])
        return (self.kernel @ images).flatten(0, 1)


def all_pairs(images: Tensor, gaussian: float, bilateral: float, colour: float) -> list[AllPairs]:
    h, w = images.shape[2:]
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).expand(len(images), -1, -1)
    colours = images.flatten(2).mT
    return [AllPairs(places / gaussian), AllPairs(torch.cat([places / bilateral, colours / colour], dim=2))]


def published(method: CRFRNN, images: Tensor, unary: Tensor, iterations: int) -> Tensor:
    """The updates as the authors' code has them: class weights, their sum, compatibility, unary scores."""
    n, k, h, w = unary.shape
    kernels = all_pairs(images, *method.deviations)
    scores = unary
    for _ in range(iterations):
        marginals = scores.softmax(dim=1).flatten(2).mT.flatten(0, 1)
        messages = [kernel.filter(marginals).view(n, h * w, k).mT for kernel in kernels]
        message = method.position_weights @ messages[0] + method.bilateral_weights @ messages[1]
        scores = unary + (method.compatibility @ message).view(n, k, h, w)
    return scores


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters by sums over all pairs of pixels, where a lattice would approximate them."""
    monkeypatch.setattr(densecrf, "_kernels", lambda images, _, *deviations: all_pairs(images, *deviations))


def test_starts_as_published() -> None:
    method = CRFRNN(3, 1)
    eye = torch.eye(3)
    assert torch.equal(method.position_weights, 3 * eye) and torch.equal(method.bilateral_weights, 5 * eye)
    assert torch.equal(method.compatibility, eye)
    assert method.deviations == (3, 160, 3)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("training", [True, False])
def test_updates_are_the_published_ones(training: bool) -> None:
    images, unary = example()
    method = layer(**NARROW).train(training)
    expected = published(method, images, unary, 5 if training else 10)
    torch.testing.assert_close(method.structure(images, unary, unary), expected, atol=1e-9, rtol=1e-9)


def test_the_lattice_is_near_the_sum_over_all_pairs() -> None:
    """It is an approximation, here: 97 % of the labels agree, marginals to 0.014 in the mean."""
    images, unary = example(20, 24)
    method = CRFRNN(CLASSES, 1, **NARROW).double()
    expected = published(method, images, unary, 5).softmax(dim=1)
    actual = method.structure(images, unary, unary).softmax(dim=1)
    assert (actual - expected).abs().mean() < 0.02
    assert (actual.argmax(1) == expected.argmax(1)).double().mean() > 0.95


@pytest.mark.parametrize("filters", ["all pairs", "lattice"])
def test_derivatives_of_scores_and_matrices(filters: str, request: pytest.FixtureRequest) -> None:
    if filters == "all pairs":
        request.getfixturevalue("exact")
    method = layer(iterations=2, **NARROW)
    assert len([*method.parameters()]) == 3
    assert has_right_derivatives(method, *example(3, 4))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("alignment", ["middles", "corners", "stretched"])
def test_works_at_the_size_of_the_images(alignment: str) -> None:
    images, unary = example(24, 16, cells=8)
    method = layer(**NARROW)
    method.alignment = alignment
    logits = method.structure(images, unary, unary)
    torch.testing.assert_close(logits, published(method, images, method.enlarged(unary, images), 5))


@pytest.mark.usefixtures("exact")
def test_on_the_grid_it_sees_the_image_resized() -> None:
    images, unary = example(24, 16, cells=2)
    method = layer(grid=1, **NARROW)
    small = functional.interpolate(images, (12, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(method.structure(images, unary, unary), published(method, small, unary, 5))


def test_entries_say_where_they_work() -> None:
    config = reading.load([], base=ROOT / "config.yaml")
    images, unary = example(16, 24, cells=8)
    for name, expected in (("crfrnn", (16, 24)), ("crfrnn-grid", (2, 3))):
        method = entries.method(config, name, "digits").build(CLASSES, 1)
        assert method.structure(images, unary, unary).shape == (2, CLASSES, *expected)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"test_iterations": 0},
        {"gaussian": [0, 1]},
        {"bilateral": [1, 1]},
        {"grid": 2},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        CRFRNN(CLASSES, 1, **options)
