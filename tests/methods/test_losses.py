"""Losses that libraries give, or that follow from cross-entropy: pyramid, dice, lovasz."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods.base import Method, cross_entropy
from methods.dice import Dice
from methods.lovasz import Lovasz
from methods.pyramid import Pyramid


def example(void: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 8, 12, generator=generator)
    labels = torch.randint(3, (2, 8, 12), generator=generator)
    if void:
        labels[0, :2] = 255
    return logits, labels


def test_pyramid_is_the_mean_over_scales() -> None:
    logits, labels = example()
    expected = cross_entropy(logits, labels)
    for h, w in ((2, 3), (4, 6), (6, 9)):
        rows, columns = ([side * i // small for i in range(small)] for side, small in ((8, h), (12, w)))
        smaller = functional.interpolate(logits, (h, w), mode="bilinear", align_corners=False)
        expected = expected + cross_entropy(smaller, labels[:, rows][:, :, columns])
    torch.testing.assert_close(Pyramid(3, 1).loss(logits, labels), expected / 4)


def test_pyramid_refuses_what_it_cannot_shrink() -> None:
    with pytest.raises(ValueError, match="cannot be made 4 times smaller"):
        Pyramid(3, 1).loss(torch.zeros(1, 3, 3, 9), torch.zeros(1, 3, 9, dtype=torch.long))


def test_dice_equals_its_formula() -> None:
    logits, labels = example()
    valid = labels != 255
    probabilities = logits.softmax(dim=1).movedim(1, -1)[valid]
    truth = functional.one_hot(labels[valid], 3)
    ratio = 2 * (probabilities * truth).sum(0) / (probabilities.sum(0) + truth.sum(0))
    torch.testing.assert_close(Dice(3, 1).loss(logits, labels), (1 - ratio).mean())


def test_lovasz_is_one_minus_iou_of_sure_predictions() -> None:
    _, labels = example()
    guess = labels.roll(1, dims=2).clamp(max=2)
    logits = 200.0 * functional.one_hot(guess, 3).movedim(-1, 1)
    valid = labels != 255
    ious = []
    for label in range(3):
        truth, predicted = labels[valid] == label, guess[valid] == label
        ious.append(((truth & predicted).sum() / (truth | predicted).sum()).item())
    assert float(Lovasz(3, 1).loss(logits, labels)) == pytest.approx(1 - sum(ious) / 3, abs=1e-5)


@pytest.mark.parametrize("kind", [Dice, Lovasz])
def test_can_be_mixed_with_cross_entropy(kind: type[Method]) -> None:
    logits, labels = example()
    pure, mixed = kind(3, 1).loss(logits, labels), kind(3, 1, weight=0.25).loss(logits, labels)
    torch.testing.assert_close(mixed, 0.25 * pure + 0.75 * cross_entropy(logits, labels))
    with pytest.raises(ValueError, match="weight must be between 0 and 1"):
        kind(3, 1, weight=2)
