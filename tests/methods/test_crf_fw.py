"""Regularised Frank–Wolfe: its updates are the published ones, and mean field is one of its cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods import crf_fw
from methods.crf_fw import FrankWolfeCRF, frank_wolfe_crf, simplex_projection
from methods.densecrf import dense_crf

NARROW = {"gaussian": (2, 1.0), "bilateral": (6, 30, 2.0)}


def example(k: int = 4, h: int = 12, w: int = 15) -> tuple[Tensor, Tensor]:
    """Two images with smooth shades and noise, and smooth probabilities in float64."""
    generator = torch.Generator().manual_seed(0)
    resize = torch.nn.functional.interpolate
    shades = resize(255 * torch.rand(2, 3, 4, 5, generator=generator), (h, w), mode="bilinear")
    images = (shades + 8 * torch.randn(2, 3, h, w, generator=generator)).clamp(0, 255).to(torch.uint8)
    logits = resize(2 * torch.randn(2, k, 6, 7, generator=generator), (h, w), mode="bicubic")
    return images, logits.double().softmax(1)


def normalised(features: Tensor) -> Tensor:
    """The Gaussian kernel between all pairs of points `[P, d]`, normalised symmetrically, `[P, P]`."""
    kernel = torch.exp(-(torch.cdist(features, features) ** 2) / 2)
    norm = kernel.sum(1).rsqrt()
    return norm[:, None] * kernel * norm


class AllPairs:
    """A sum over all pixels of an image, in the place of the lattice."""

    def __init__(self, features: list[Tensor]) -> None:
        self.kernels = torch.stack([normalised(points.double()) for points in features])

    def filter(self, values: Tensor) -> Tensor:
        return (self.kernels @ values.unflatten(0, self.kernels.shape[:2])).flatten(0, 1)


def all_pairs(images: Tensor, _: str, gaussian: float, bilateral: float, colour: float) -> list[AllPairs]:
    places = torch.cartesian_prod(*(torch.arange(side) for side in images.shape[2:]))
    colours = [image.flatten(1).mT / colour for image in images]
    both = [torch.cat([places / bilateral, one], dim=1) for one in colours]
    return [AllPairs([places / gaussian] * len(images)), AllPairs(both)]


def nearest_distribution(scores: Tensor) -> Tensor:
    """That of one pixel's scores `[K]`, of all numbers of labels that may be left the one that fits."""
    ordered = scores.sort(descending=True).values
    thresholds = [(ordered[: n + 1].sum() - 1) / (n + 1) for n in range(len(scores))]
    result = [(scores - tau).clamp(min=0) for tau in thresholds]
    return next(x for x in result if abs(float(x.sum()) - 1) < 1e-9)


@pytest.mark.parametrize(("regulariser", "strength", "step"), [("euclidean", 2, 1), ("entropy", 0.5, 0.7)])
def test_updates_are_the_published_ones(
    regulariser: str, strength: float, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crf_fw, "_kernels", all_pairs)
    images, probabilities = example()
    options = {"regulariser": regulariser, "strength": strength, "step": step, "iterations": 3, **NARROW}
    actual = frank_wolfe_crf(images, probabilities, **options)
    position, bilateral = all_pairs(images, "", 2, 6, 30)
    for index, one in enumerate(probabilities):
        unary = one.flatten(1).mT.log()
        x = one.flatten(1).mT
        for _ in range(3):
            scores = (unary + position.kernels[0] @ x + 2 * bilateral.kernels[index] @ x) / strength
            rows = [nearest_distribution(row) for row in scores]
            best = torch.stack(rows) if regulariser == "euclidean" else scores.softmax(1)
            x = x + step * (best - x)
        torch.testing.assert_close(actual[index].flatten(1).mT, x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("iterations", [1, 5])
def test_mean_field_is_the_case_of_entropy(iterations: int) -> None:
    images, probabilities = example(11, 40, 50)
    probabilities = probabilities.float()
    actual = frank_wolfe_crf(images, probabilities, iterations=iterations, regulariser="entropy")
    expected = dense_crf(images, probabilities, iterations=iterations)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_projection_is_the_nearest_distribution() -> None:
    scores = 3 * torch.randn(7, 200, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    scores[:, 0], scores[:, 1] = 1e4, torch.tensor([1e4, -1e4, 1, 2, 3, 1e4 - 0.5, 0])
    expected = torch.stack([nearest_distribution(column) for column in scores.mT], dim=1)
    torch.testing.assert_close(simplex_projection(scores), expected)
    assert torch.autograd.gradcheck(simplex_projection, scores[:, 2:40].clone().requires_grad_())


def test_derivative_by_the_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf_fw, "_kernels", all_pairs)
    images, probabilities = example(3, 3, 4)

    def labelling(probabilities: Tensor) -> Tensor:
        return frank_wolfe_crf(images, probabilities, iterations=2, strength=3, **NARROW)

    assert torch.autograd.gradcheck(labelling, probabilities.requires_grad_())


def test_half_precision_is_computed_in_float32() -> None:
    images, probabilities = example()
    half = probabilities.bfloat16()
    result = FrankWolfeCRF(4, 1).refine(images, half)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, FrankWolfeCRF(4, 1).refine(images, half.float()).bfloat16())


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"gaussian": [0, 1]},
        {"regulariser": "x"},
        {"strength": 0},
        {"step": 0},
        {"step": 2},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrankWolfeCRF(3, 1, **options)
