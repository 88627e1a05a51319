"""Superpixels: means of segments that follow the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.superpixels import Superpixels, means


def test_means_are_those_of_segments() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 6, 7, generator=generator, dtype=torch.double)
    segments = torch.randint(5, (6, 7), generator=generator)
    segments[segments == 2] = 3  # a number that no pixel has
    result = means(values, segments)
    for number in (0, 1, 3, 4):
        inside = segments == number
        expected = values[:, inside].mean(dim=1, keepdim=True).expand(-1, int(inside.sum()))
        torch.testing.assert_close(result[:, inside], expected)


def test_labels_follow_the_image() -> None:
    """A border of the image, and probabilities whose border is two pixels off and noisy."""
    generator = torch.Generator().manual_seed(0)
    images = torch.full((2, 3, 40, 48), 30, dtype=torch.uint8)
    images[:, :, :, 24:] = 220
    logits = torch.where(torch.arange(48) < 26, 1.0, -1.0) + 0.5 * torch.randn(2, 40, 48, generator=generator)
    probabilities = torch.stack([logits.sigmoid(), 1 - logits.sigmoid()], dim=1)
    result = Superpixels(2, 1, pixels=64).refine(images, probabilities)
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2, 40, 48))
    expected = (torch.arange(48) >= 24).long().expand(2, 40, 48)
    assert (result.argmax(1) == expected).all()
    assert (probabilities.argmax(1) != expected).float().mean() > 0.04
    alone = Superpixels(2, 1, pixels=64).refine(images[1:], probabilities[1:])
    assert torch.equal(alone, result[1:])


def test_superpixels_have_about_so_many_pixels() -> None:
    picture = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    segments = Superpixels(2, 1, pixels=48, compactness=100).segments(picture)
    assert segments.shape == (60, 80) and segments.min() == 0
    assert 60 <= segments.max() + 1 <= 140


def test_half_precision_is_computed_in_float32() -> None:
    images = torch.randint(256, (1, 3, 20, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    half = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(1)).softmax(1).bfloat16()
    result = Superpixels(3, 1).refine(images, half)
    torch.testing.assert_close(result, Superpixels(3, 1).refine(images, half.float()).bfloat16())


@pytest.mark.parametrize("options", [{"pixels": 1}, {"compactness": 0}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Superpixels(3, 1, **options)
