"""The active boundary loss against its definition, pixel by pixel."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from methods.active_boundary import (
    STEPS,
    ActiveBoundary,
    active_boundary_loss,
    boundary_distances,
    predicted_boundary,
)
from methods.base import cross_entropy
from methods.lovasz import lovasz_softmax

K, H, W = 3, 14, 17
SHARE = 0.05


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with an upright boundary and void, and distances; the second image is of one class."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, K, H, W, generator=generator, dtype=torch.double)
    labels = torch.zeros(2, H, W, dtype=torch.long)
    labels[0, :, 5:] = 2
    labels[0, 11:, 12:] = 255
    return logits, labels, torch.stack([boundary_distances(image) for image in labels])


def divergence(p: Tensor, q: Tensor) -> float:
    return float((p * (p / q).log()).sum())


def expected_distances(labels: Tensor) -> list[list[int]]:
    boundary = []
    for y, x in itertools.product(range(H), range(W)):
        here = labels[y, x]
        others = [labels[v, u] for v, u in ((y + 1, x), (y, x + 1)) if v < H and u < W]
        if here == 255 or any(here != other for other in others):
            boundary.append((y, x))
    if not boundary:
        return [[0] * W for _ in range(H)]
    nearest = [[min(math.dist((y, x), place) for place in boundary) for x in range(W)] for y in range(H)]
    return [[max(0, math.floor(length - 1)) for length in row] for row in nearest]


def expected_boundary(probabilities: Tensor, labels: Tensor) -> set[tuple[int, int]]:
    change = {}
    for y, x in itertools.product(range(H), range(W)):
        total = 0.0
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < H and u < W and 255 not in (labels[y, x], labels[v, u]):
                total += divergence(probabilities[:, y, x], probabilities[:, v, u])
        change[y, x] = total
    first = sorted(change, key=lambda place: -change[place])[: int(SHARE * H * W)]
    grown = {(y + v, x + u) for y, x in first for v, u in itertools.product((-1, 0, 1), repeat=2)}
    return {(y, x) for y, x in grown if 0 <= y < H and 0 <= x < W}


def pixel_by_pixel(logits: Tensor, labels: Tensor) -> float:
    total, count = 0.0, 0
    for probabilities, image in zip(logits.softmax(dim=1), labels):
        distances = expected_distances(image)
        for y, x in expected_boundary(probabilities, image):
            if image[y, x] == 255:
                continue
            count += 1
            weight = min(distances[y][x], 20) / 20
            if not weight:
                continue
            around = [(y + v, x + u) for v, u in STEPS]
            inside = [(min(max(v, 0), H - 1), min(max(u, 0), W - 1)) for v, u in around]
            lengths = [distances[v][u] for v, u in inside]
            nearest = lengths.index(min(lengths))
            scores = [divergence(probabilities[:, v, u], probabilities[:, y, x]) for v, u in inside]
            highest = max(scores)
            norm = highest + math.log(sum(math.exp(score - highest) for score in scores))
            target = [0.8 if step == nearest else 0.2 / 7 for step in range(8)]
            total += weight * sum(part * (norm - score) for part, score in zip(target, scores))
    return total / count


def test_distances_are_those_to_the_boundary() -> None:
    _, labels, distances = example()
    assert distances.tolist() == [expected_distances(image) for image in labels]
    assert not distances[1].any() and not distances[0, :, 3:6].any()


def test_equals_the_definition() -> None:
    logits, labels, distances = example()
    actual = float(active_boundary_loss(logits, labels, distances, SHARE))
    assert actual == pytest.approx(pixel_by_pixel(logits, labels), rel=1e-12)
    assert actual > 0.01


def test_its_gradient_is_by_the_boundary_alone() -> None:
    """That of the definition with neighbours as constants."""
    logits, labels, distances = example()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(active_boundary_loss(logits, labels, distances, SHARE), logits)
    boundary = predicted_boundary(logits.log_softmax(1), labels != 255, SHARE) & (distances > 0)
    assert torch.equal(gradient.abs().sum(dim=1) > 0, boundary)
    total = torch.zeros(())
    for image, y, x in boundary.nonzero().tolist():
        own = logits[image, :, y, x].log_softmax(0)
        places = [(min(max(y + v, 0), H - 1), min(max(x + u, 0), W - 1)) for v, u in STEPS]
        others = torch.stack([logits[image, :, v, u].log_softmax(0) for v, u in places]).detach()
        scores = (others.exp() * (others - own)).sum(dim=1).log_softmax(0)
        target = torch.full((8,), 0.2 / 7, dtype=torch.double)
        target[min(range(8), key=lambda step: int(distances[image][places[step]]))] = 0.8
        total = total - min(int(distances[image, y, x]), 20) / 20 * (target * scores).sum()
    count = (predicted_boundary(logits.log_softmax(1), labels != 255, SHARE) & (labels != 255)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(total / count, logits)[0])


def test_nothing_to_pull_is_zero_with_a_gradient() -> None:
    logits, labels, _ = example()
    flat = torch.zeros_like(logits).requires_grad_()
    for scores, truth in ((flat, labels), (logits.requires_grad_(), labels[1:].expand(2, -1, -1))):
        distances = torch.stack([boundary_distances(image) for image in truth])
        loss = active_boundary_loss(scores, truth, distances, SHARE)
        assert float(loss.detach()) == 0
        assert not torch.autograd.grad(loss, scores)[0].any()


def test_comes_with_cross_entropy_and_lovasz() -> None:
    logits, labels, distances = example()
    logits = logits.float()
    method = ActiveBoundary(K, 1, weight=0.5, share=SHARE)
    assert torch.equal(method.prepare(labels[0].to(torch.uint8)), distances[0])
    parts = cross_entropy(logits, labels) + lovasz_softmax(logits.softmax(1), labels)
    expected = parts + 0.5 * active_boundary_loss(logits, labels, distances, SHARE)
    torch.testing.assert_close(method.loss(logits, labels, distances), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": -1}, "weight must be a finite number and not negative"),
        ({"share": 0}, "share must be above 0 and at most 1, not 0"),
        ({"reach": 0}, "reach must be a finite number above 0, not 0"),
        ({"smoothing": 1}, "smoothing must be at least 0 and below 1, not 1"),
    ],
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ActiveBoundary(K, 1, **options)
