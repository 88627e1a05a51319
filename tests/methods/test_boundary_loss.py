"""The boundary loss against its definition, pixel by pixel."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from methods.base import cross_entropy
from methods.boundary_loss import Boundary, boundary_loss, signed_distances

K, H, W = 4, 6, 7


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with void and without class 3, of one class in the second image, and distances."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, H, W, generator=generator, dtype=torch.double)
    labels = torch.randint(3, (2, H, W), generator=generator)
    labels[0, 4:, :3] = 255
    labels[1] = 1
    return logits, labels, torch.stack([signed_distances(image, K) for image in labels])


def expected_distance(labels: Tensor, label: int, row: int, column: int) -> float:
    places = itertools.product(range(H), range(W))
    own = [place for place in places if labels[place] == label]
    others = [place for place in itertools.product(range(H), range(W)) if place not in own]
    if not own or not others:
        return 0.0
    if (row, column) in own:
        return 1 - min(math.dist((row, column), place) for place in others)
    return min(math.dist((row, column), place) for place in own)


def test_distances_are_signed_and_nearly_exact() -> None:
    _, labels, distances = example()
    for image, label, row, column in itertools.product(range(2), range(K), range(H), range(W)):
        expected = expected_distance(labels[image], label, row, column)
        assert float(distances[image, label, row, column]) == pytest.approx(expected, rel=5e-4)
    assert not distances[1].any()


def test_equals_the_definition() -> None:
    logits, labels, distances = example()
    probabilities = logits.softmax(dim=1)
    total, count = 0.0, 0
    for image, row, column in (labels != 255).nonzero().tolist():
        count += K
        for label in range(K):
            distance = float(distances[image, label, row, column])
            total += float(probabilities[image, label, row, column]) * distance
    assert float(boundary_loss(probabilities, labels, distances)) == pytest.approx(total / count)


def test_its_gradient_is_right_and_its_weight_grows() -> None:
    logits, labels, distances = example()
    method = Boundary(K, 1)
    plain, boundary = cross_entropy(logits, labels), boundary_loss(logits.softmax(1), labels, distances)
    for progress, share, rest in ((0.0, 0.01, 0.99), (0.5, 0.505, 0.495), (1.0, 1.0, 0.1)):
        method.progress = progress
        value = method.loss(logits, labels, distances)
        torch.testing.assert_close(value, rest * plain + share * boundary)
    torch.autograd.gradcheck(lambda x: method.loss(x, labels, distances), logits.requires_grad_())


def test_what_is_right_is_best() -> None:
    labels = torch.zeros(1, H, W, dtype=torch.long)
    labels[:, :, 3:] = 1
    distances = signed_distances(labels[0], 2).unsqueeze(0)
    values = []
    for column in range(W + 1):
        guess = (torch.arange(W) >= column).double().expand(1, H, W)
        values.append(float(boundary_loss(torch.stack([1 - guess, guess], dim=1), labels, distances)))
    assert values.index(min(values)) == 3 and values[3] < 0


def test_the_loader_prepares_distances_of_all_classes() -> None:
    _, labels, distances = example()
    assert torch.equal(Boundary(K, 1).prepare(labels[0].to(torch.uint8)), distances[0])


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha_end": 2}])
def test_impossible_options_are_refused(options: dict) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1"):
        Boundary(K, 1, **options)
