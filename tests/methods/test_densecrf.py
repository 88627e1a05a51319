from __future__ import annotations

import numpy as np
import pytest
import torch
from pydensecrf.densecrf import DenseCRF2D

from methods.densecrf import DenseCRF


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image of two colours with a noisy prediction of where each is."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 30, 40, dtype=torch.long)
    truth[:, :, 17:] = 1
    image = torch.where(truth == 1, 200, 40).unsqueeze(1).expand(-1, 3, -1, -1)
    image = (image + 5 * torch.randn(1, 3, 30, 40, generator=generator)).to(torch.uint8)
    logits = torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float()
    logits = logits + 1.5 * torch.randn(1, 3, 30, 40, generator=generator)
    return image, logits.softmax(1), truth


def test_equals_pydensecrf_with_the_settings_of_the_paper() -> None:
    image, probabilities, _ = example()
    crf = DenseCRF2D(40, 30, 3)
    unary = -np.log(probabilities[0].clamp(1e-5, 1).numpy()).reshape(3, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=30, srgb=13, rgbim=pixels, compat=10)
    expected = torch.from_numpy(np.array(crf.inference(5))).view(1, 3, 30, 40)
    actual = DenseCRF(3, 1, iterations=5).refine(image, probabilities)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_it_repairs_a_noisy_prediction() -> None:
    image, probabilities, truth = example()
    before = (probabilities.argmax(1) == truth).float().mean()
    after = (DenseCRF(3, 1).refine(image, probabilities).argmax(1) == truth).float().mean()
    assert before < 0.8 < 0.98 < after


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"gaussian": [3]}, "gaussian must be 2 positive numbers"),
        ({"bilateral": [30, 13, -1]}, "bilateral must be 3 positive numbers"),
    ],
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DenseCRF(3, 1, **options)
