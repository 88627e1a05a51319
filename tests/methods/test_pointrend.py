"""PointRend: which points are chosen, what is there, and what the loss and the subdivision make of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from methods.base import cross_entropy
from methods.pointrend import PointRend, certainty

K, C = 3, 4
ALIGNMENTS = ["middles", "corners", "stretched"]


class Recorder(nn.Module):
    """A head that keeps what it sees, and gives the features or the scores of points back."""

    def __init__(self, gives: str = "scores") -> None:
        super().__init__()
        self.gives = gives
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        self.seen.append({"features": features, "scores": scores})
        return self.seen[-1][self.gives]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def example(h: int = 3, w: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images four times as large as the grid, features and scores."""
    return normal(2, 3, 4 * h, 4 * w), normal(2, C, h, w, seed=1), 2 * normal(2, K, h, w, seed=2)


def layer(**options: object) -> PointRend:
    """A method whose head is not what it starts with."""
    torch.manual_seed(0)
    method = PointRend(K, C, **{"pixels_per_point": 8, "channels": 5} | options).double()
    with torch.no_grad():
        method.head.last.weight.normal_()
    return method


def recording(method: PointRend, gives: str = "scores") -> Recorder:
    recorder = method.head = Recorder(gives)
    return recorder


def at(cells: Tensor, row: float, column: float) -> Tensor:
    """What a map [C, h, w] is at a place, bilinearly."""
    h, w = cells.shape[1:]
    row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
    total = torch.zeros(len(cells), dtype=cells.dtype)
    for y in {math.floor(row), math.ceil(row)}:
        for x in {math.floor(column), math.ceil(column)}:
            total += (1 - abs(row - y)) * (1 - abs(column - x)) * cells[:, y, x]
    return total


def perceptron(method: PointRend, features: Tensor, scores: Tensor) -> Tensor:
    x = torch.cat([features, scores])
    for hidden in method.head.hidden:
        x = (hidden.weight @ x + hidden.bias).clamp(min=0)
        x = torch.cat([x, scores]) if method.head.scores_each_layer else x
    return method.head.last.weight @ x + method.head.last.bias


def subdivided(method: PointRend, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
    """The published subdivision, cell by cell, of one image."""
    h, w = unary.shape[1:]
    scores, size = unary, (h, w)
    while size[0] < images.shape[1]:
        size = (2 * size[0], 2 * size[1])
        places = [(y, x) for y in range(size[0]) for x in range(size[1])]
        finer = {(y, x): at(scores, (y + 0.5) / 2 - 0.5, (x + 0.5) / 2 - 0.5) for y, x in places}
        gaps = {place: float(value.sort().values.diff()[-1]) for place, value in finer.items()}
        for y, x in sorted(places, key=gaps.__getitem__)[: images[0].numel() // method.pixels_per_point]:
            place = ((y + 0.5) / size[0] * h - 0.5, (x + 0.5) / size[1] * w - 0.5)
            finer[y, x] = perceptron(method, at(features, *place), at(unary, *place))
        scores = torch.stack([finer[place] for place in places], dim=1).unflatten(1, size)
    return scores


@pytest.mark.parametrize("scores_each_layer", [True, False])
def test_the_subdivision_is_the_published_one(scores_each_layer: bool) -> None:
    method, inputs = layer(scores_each_layer=scores_each_layer).eval(), example()
    with torch.no_grad():
        expected = torch.stack([subdivided(method, *image) for image in zip(*inputs)])
        torch.testing.assert_close(method.structure(*inputs), expected)
        assert not torch.allclose(expected, method.enlarged(inputs[2], inputs[0]))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_points_lie_where_the_stage_enlarges_features(alignment: str) -> None:
    """If the head gives features, and all cells are points, features are enlarged."""
    images, _, unary = example(5, 4)
    features = normal(2, K, 10, 8) if alignment == "middles" else normal(2, K, 5, 4)
    method = layer(pixels_per_point=1).eval()
    method.alignment = alignment
    recording(method, "features")
    torch.testing.assert_close(method.structure(images, features, unary), method.enlarged(features, images))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_in_training_scores_are_those_of_the_network(alignment: str) -> None:
    images, features, unary = example()
    method = layer()
    method.alignment = alignment
    assert torch.equal(method.structure(images, features, unary), method.enlarged(unary, images))


class Ruler(nn.Module):
    """A head that says in which of many rows, or columns, a point lies: features are its place."""

    def __init__(self, axis: int, count: int) -> None:
        super().__init__()
        self.axis, self.count = axis, count

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        return -100 * (features[..., self.axis, None] - torch.arange(self.count)).square()


def places(alignment: str, cells: tuple[int, int] = (8, 10)) -> tuple[Tensor, Tensor]:
    """At which rows and columns of the pixels of an input of 32×40 the cells of a grid lie."""
    if alignment == "middles":
        return tuple(4 * torch.arange(count).double() + 1.5 for count in cells)
    steps = [4.0 if alignment == "corners" else (4 * count - 1) / (count - 1) for count in cells]
    return tuple(step * torch.arange(count).double() for step, count in zip(steps, cells))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("size", [(32, 40), (27, 38)])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_are_those_of_the_places_that_are_looked_at(
    alignment: str, size: tuple[int, int], axis: int
) -> None:
    """Also where the network's input is larger than the labels."""
    rows, columns = places(alignment)
    features = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(2, 2, 8, 10)
    labels = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"))[axis].clone()
    end = (rows, columns)[axis]
    labels[(labels <= end[0]) | (labels >= end[-1])] = 255  # nothing is between cells there
    method = PointRend(40, 2, pixels_per_point=1).double()
    method.alignment, method.head = alignment, Ruler(axis, 40)
    unary = normal(2, 40, 8, 10)
    method.structure(normal(2, 3, 32, 40), features, unary)
    logits = torch.zeros(2, 40, *size, dtype=torch.double)
    loss = method.loss(logits, labels.expand(2, *size), features, unary) - math.log(40)
    assert 0 < loss < 0.1, "nowhere another row, and in few places nearly two"


def recorded(images: Tensor, unary: Tensor, **options: object) -> Tensor:
    """The scores [N, P, K] of the points that a step of training looks at."""
    method = layer(**options)
    recorder = recording(method)
    method.structure(images, unary, unary)
    method.loss(method.enlarged(unary, images), images[:, 0].long() * 0, unary, unary)
    return recorder.seen[-1]["scores"]


def certainties(images: Tensor, unary: Tensor, **options: object) -> Tensor:
    """How certain the points of a step of training are, by the network's scores, `[N, P]`."""
    return certainty(recorded(images, unary, **options).mT)


def test_points_are_the_least_certain_of_more_and_others() -> None:
    images, _, unary = example(8, 8)
    count = 32 * 32 // 8
    drawn = certainties(images, unary, pixels_per_point=2, oversampling=1, importance=1)
    least = certainties(images, unary, oversampling=4, importance=1)
    assert drawn.shape == (2, 4 * count) and least.shape == (2, count)
    assert torch.equal(least.sort().values, drawn.sort().values[:, :count])
    both = certainties(images, unary)
    first, others = both[:, : 3 * count // 4], both[:, 3 * count // 4 :]
    assert first.max() < others.median() and others.shape == (2, count // 4)


def test_points_are_drawn_anew_in_each_step_and_run_and_are_the_same_when_it_is_resumed() -> None:
    images, features, unary = example(8, 8)
    labels = torch.randint(K, (2, 32, 32), generator=torch.Generator().manual_seed(0))

    def loss(seed: int, progress: float) -> float:
        torch.manual_seed(seed)
        method = PointRend(K, C).double()
        method.load_state_dict(layer(channels=256).state_dict())
        method.progress = progress
        torch.manual_seed(progress > 0)  # the stage's, of all that is random
        return float(method.loss(method.enlarged(unary, images), labels, features, unary).detach())

    values = [loss(seed, step / 256) for seed in range(3) for step in range(4)]
    assert len(set(values)) == len(values)
    assert values == [loss(seed, step / 256) for seed in range(3) for step in range(4)]


def test_the_loss_is_that_of_the_network_and_of_the_points_that_are_not_void() -> None:
    images, _, unary = example(8, 8)
    features = places("middles", (8, 8))[1].expand(2, 1, 8, 8)  # in which column
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :, 10:] = 2
    labels[:, :, 20:] = 255
    method = layer(weight=0.5)
    recorder = recording(method)
    logits = method.structure(images, features, unary)
    loss = method.loss(logits, labels, features, unary)
    column = (recorder.seen[-1]["features"][..., 0] + 0.5).long()
    scores = recorder.seen[-1]["scores"]
    truth = torch.where(column < 10, 0, 2)[column < 20]
    expected = -scores.log_softmax(dim=2)[column < 20].gather(1, truth.unsqueeze(1)).mean()
    assert math.isclose(method.diagnostics()["points"], expected)
    torch.testing.assert_close(loss, cross_entropy(logits, labels) + 0.5 * expected)
    assert method.loss(logits, torch.full_like(labels, 255), features, unary) == 0


def test_void_points_do_not_count() -> None:
    images, features, unary = example(8, 8)
    unary[:, :, :, :4] *= -1
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :, 16:] = 255
    changed = features.clone()
    changed[:, :, :, 5:] += 1  # seen by void points alone
    method = layer()
    logits = method.structure(images, features, unary)
    assert method.loss(logits, labels, features, unary) == method.loss(logits, labels, changed, unary)
    assert method.loss(logits, labels, features, unary) != method.loss(logits, labels, features + 1, unary)


@pytest.mark.parametrize("part", ["structure", "loss"])
def test_derivatives(part: str) -> None:
    images, features, unary = example()
    labels = torch.randint(K, (2, 12, 16), generator=torch.Generator().manual_seed(0))
    method = layer().eval()
    names = [name for name, _ in method.named_parameters()]

    def function(features: Tensor, unary: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(method, dict(zip(names, values, strict=True)), (features, unary))

    if part == "structure":
        method.forward = lambda features, unary: method.structure(images, features, unary)
    else:
        method.forward = lambda features, unary: method.loss(
            method.enlarged(unary, images), labels, features, unary
        )
    inputs = [features, unary, *(parameter.detach() for parameter in method.parameters())]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs], fast_mode=True)


def test_half_precision() -> None:
    images, features, unary = (x.float() for x in example(8, 8))
    labels = torch.randint(K, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    method = layer().float()
    rounded = features.bfloat16().float(), unary.bfloat16().float()
    expected = method.loss(method.structure(images, *rounded), labels, *rounded)
    with torch.autocast("cpu", torch.bfloat16):
        halves = features.bfloat16(), unary.bfloat16()
        result = method.loss(method.structure(images, *halves), labels, *halves)
        scores = method.eval().structure(images, *halves)
    assert result.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)


def test_certainty_is_the_gap_between_the_two_highest() -> None:
    scores = normal(2, 7, 5, 6)
    scores[0, :, 0, 0] = 1.0
    best = scores.topk(2, dim=1).values
    assert torch.equal(certainty(scores), best[:, 0] - best[:, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"pixels_per_point": 0},
        {"oversampling": 0.5},
        {"importance": 1.5},
        {"channels": 0},
        {"layers": 0},
        {"weight": 0.0},
        {"weight": math.inf},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        PointRend(K, C, **options)
