"""The Jaccard metric loss against its definition, class by class and image by image."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import entries, reading
from methods.base import cross_entropy
from methods.jaccard import MEASURES, Jaccard, Measure, jaccard_loss
from tests.conftest import ROOT

K = 4


def example() -> tuple[Tensor, Tensor]:
    """Class 3 is in no image, class 2 in one; a part of the first image is void, and all of the last."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, K, 5, 6, generator=generator, dtype=torch.double)
    labels = torch.randint(3, (3, 5, 6), generator=generator)
    labels[0, :2] = 255
    labels[1][labels[1] == 2] = 0
    labels[2] = 255
    return logits, labels


def defined(probabilities: Tensor, truth: Tensor, smooth: float) -> float:
    """One minus the index of one class at some pixels, by norms as in the paper."""
    both = probabilities.norm(1) + truth.norm(1)
    difference = (probabilities - truth).norm(1)
    return 1 - float(((both - difference) / 2 + smooth) / ((both + difference) / 2 + smooth))


def by_definition(probabilities: Tensor, labels: Tensor, measure: Measure, smooth: float) -> float:
    if measure == "image+class":
        return mean(by_definition(probabilities, labels, part, smooth) for part in ("image", "class"))
    pixels = probabilities.movedim(1, -1)
    groups = [range(3)] if measure == "dataset" else [[image] for image in range(3)]
    losses: dict[tuple[int, int], float] = {}
    for place, group in enumerate(groups):
        chosen, of_group = pixels[list(group)], labels[list(group)]
        for label in of_group[of_group != 255].unique().tolist():
            valid = of_group != 255
            truth = (of_group[valid] == label).double()
            losses[place, label] = defined(chosen[valid][:, label], truth, smooth)
    by = 1 if measure == "class" else 0
    parts = {key[by] for key in losses}
    return mean(mean(loss for key, loss in losses.items() if key[by] == part) for part in parts)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("measure", MEASURES)
def test_equals_the_definition(measure: Measure, smooth: float) -> None:
    logits, labels = example()
    probabilities = logits.softmax(dim=1)
    actual = float(jaccard_loss(probabilities, labels, measure, smooth))
    assert actual == pytest.approx(by_definition(probabilities, labels, measure, smooth), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_its_gradient_is_right(measure: Measure) -> None:
    logits, labels = example()
    loss = Jaccard(K, 1, measure=measure)
    torch.autograd.gradcheck(lambda x: loss.loss(x, labels), logits.requires_grad_())


def test_is_one_minus_iou_of_sure_predictions() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 255]]])
    guess = torch.tensor([[[0, 1, 1, 1, 0]]])
    sure = functional.one_hot(guess, 2).movedim(-1, 1).double()
    assert float(jaccard_loss(sure, labels, smooth=0)) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_a_quarter_is_cross_entropy() -> None:
    logits, labels = example()
    expected = 0.75 * jaccard_loss(logits.softmax(1), labels) + 0.25 * cross_entropy(logits, labels)
    torch.testing.assert_close(Jaccard(K, 1).loss(logits, labels), expected)
    config = reading.load([], base=ROOT / "config.yaml")
    both = entries.method(config, "jaccard-ic", "digits").build(K, 1).loss(logits, labels)
    expected += 0.75 * (
        jaccard_loss(logits.softmax(1), labels, "image+class") - jaccard_loss(logits.softmax(1), labels)
    )
    torch.testing.assert_close(both, expected)


def test_mixed_precision_does_not_change_it() -> None:
    """Its sums of products are not made of half precision."""
    logits, labels = (x.repeat_interleave(40, -1) for x in example())
    logits = logits.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = Jaccard(K, 1).loss(logits, labels)
    torch.testing.assert_close(value, Jaccard(K, 1).loss(logits, labels), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"measure": "pixel"}, "measure must be one of dataset, image, class, image\\+class, not 'pixel'"),
        ({"weight": 2}, "weight must be between 0 and 1, not 2"),
        ({"smooth": -1}, "smooth must be a finite number and not negative, not -1"),
    ],
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Jaccard(K, 1, **options)
