"""The guided filter, against a fit in every square."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.guided import GREY, GuidedFilter, guided_filter


def example(h: int = 9, w: int = 11, k: int = 3) -> tuple[Tensor, Tensor]:
    """Two images and probabilities in float64."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, h, w), generator=generator).to(torch.uint8)
    return images, torch.randn(2, k, h, w, generator=generator, dtype=torch.double).softmax(1)


def by_fits(guide: Tensor, p: Tensor, radius: int, epsilon: float) -> Tensor:
    """One image `[h, w]` and one class: a ridge regression in each square, and their mean at each pixel."""
    h, w = guide.shape
    total, count = torch.zeros_like(p), torch.zeros_like(p)
    for y in range(h):
        for x in range(w):
            part = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            seen, values = guide[part], p[part]
            covariance = ((seen - seen.mean()) * (values - values.mean())).mean()
            slope = covariance / (seen.var(unbiased=False) + epsilon)
            total[y, x], count[y, x] = slope, values.mean() - slope * seen.mean()
    result = torch.zeros_like(p)
    for y in range(h):
        for x in range(w):
            part = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            result[y, x] = total[part].mean() * guide[y, x] + count[part].mean()
    return result


def test_is_the_mean_of_fits() -> None:
    images, probabilities = example()
    guide = images.double().mean(dim=1, keepdim=True) / 255
    actual = guided_filter(guide, probabilities, 2, 0.02)
    for one, p, result in zip(guide, probabilities, actual):
        expected = torch.stack([by_fits(one[0], row, 2, 0.02) for row in p])
        torch.testing.assert_close(result, expected)


def test_the_fast_form_is_exact_for_what_is_constant_on_cells() -> None:
    """Of a grey image there is nothing to fit: it leaves means of cells, bilinearly between them."""
    guide = torch.full((1, 1, 12, 16), 0.5, dtype=torch.double)
    values = example(12, 16)[1][:1]
    small = torch.nn.functional.avg_pool2d(values, 4)
    means = guided_filter(guide[:, :, ::4, ::4], small, 1, 0.1)
    expected = torch.nn.functional.interpolate(means, (12, 16), mode="bilinear")
    torch.testing.assert_close(guided_filter(guide, values, 4, 0.1, 4), expected)


@pytest.mark.parametrize("size", [(24, 32), (23, 33), (5, 3)])
def test_gives_probabilities(size: tuple[int, int]) -> None:
    images, probabilities = example(*size)
    result = GuidedFilter(3, 1).refine(images, probabilities)
    assert result.shape == probabilities.shape and (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2, *size, dtype=torch.double))
    guide = images.double().mul(torch.tensor(GREY).view(3, 1, 1)).sum(dim=1, keepdim=True) / 255
    plain = guided_filter(guide, probabilities, 8, 1e-4, 4)
    torch.testing.assert_close(plain.sum(dim=1), torch.ones(2, *size, dtype=torch.double))


def test_an_edge_of_the_image_is_an_edge_of_the_result() -> None:
    """Blurred probabilities of two regions follow the step between them."""
    images = torch.full((1, 3, 32, 32), 40, dtype=torch.uint8)
    images[:, :, :, 16:] = 200
    ramp = (torch.arange(32) - 11.5).div(8).sigmoid()
    first = ramp.expand(1, 1, 32, 32)
    result = GuidedFilter(2, 1, epsilon=1e-4, subsampling=1).refine(
        images, torch.cat([first, 1 - first], dim=1)
    )
    step = result[0, 0, 16, 16] - result[0, 0, 16, 15]
    assert step > 5 * (ramp[16] - ramp[15])


def test_half_precision_is_computed_in_float32() -> None:
    images, probabilities = example()
    half = probabilities.bfloat16()
    result = GuidedFilter(3, 1).refine(images, half)
    torch.testing.assert_close(result, GuidedFilter(3, 1).refine(images, half.float()).bfloat16())


@pytest.mark.parametrize("options", [{"radius": 2}, {"epsilon": 0}, {"subsampling": 0}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        GuidedFilter(3, 1, **options)
