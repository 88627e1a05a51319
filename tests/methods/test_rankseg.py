"""RankSEG-RMA: its sets are the best of all sets, and its labels those of the published rule."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from methods.rankseg import RankSEG, ranked_labels


def example(k: int, h: int, w: int, scale: float = 2, seed: int = 0) -> Tensor:
    """Probabilities of two images, float64."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, k, h, w, generator=generator, dtype=torch.double)).softmax(1)


def ratio(p: Tensor, mass: float, chosen: list[int], metric: str) -> float:
    inside = float(p[chosen].sum())
    if metric == "iou":
        return inside / (mass - inside + len(chosen))
    return 2 * inside / (mass + len(chosen) + 1)


def by_definition(p: Tensor, metric: str, pruning: float) -> list[int]:
    """The labels of one image's pixels `[K, P]`, by looking at all sets of pixels."""
    k, pixels = p.shape
    mass = [float(row.sum()) for row in p]
    kept = [float(row.max()) > pruning for row in p]
    sets = [[*itertools.chain(*combo)] for combo in itertools.product(*([[], [i]] for i in range(pixels)))]
    wanted = [max(sets, key=lambda s: ratio(p[c], mass[c], s, metric)) if kept[c] else [] for c in range(k)]
    claims = [[c for c in range(k) if i in wanted[c]] for i in range(pixels)]
    certain = [[i for i in range(pixels) if claims[i] == [c]] for c in range(k)]

    def gain(c: int, i: int) -> float:
        others = [j for j in certain[c] if j != i]
        return ratio(p[c], mass[c], [*others, i], metric) - ratio(p[c], mass[c], others, metric)

    eligible = [c for c in range(k) if kept[c]] or [*range(k)]
    return [
        claims[i][0] if len(claims[i]) == 1 else max(claims[i] or eligible, key=lambda c: gain(c, i))
        for i in range(pixels)
    ]


@pytest.mark.parametrize("metric", ["iou", "dice"])
@pytest.mark.parametrize(
    ("k", "scale", "pruning"), [(2, 2, 0.5), (3, 1, 0.5), (4, 3, 0.5), (4, 0.3, 0.5), (3, 1, 0)]
)
def test_labels_are_those_of_the_best_sets(k: int, scale: float, pruning: float, metric: str) -> None:
    for seed in range(5):
        probabilities = example(k, 2, 4, scale, seed)
        labels = ranked_labels(probabilities, metric=metric, pruning=pruning)
        expected = [by_definition(one.flatten(1), metric, pruning) for one in probabilities]
        assert labels.flatten(1).tolist() == expected


@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_a_lone_pixel_of_a_small_class_may_be_worth_more_than_its_probability(metric: str) -> None:
    """A class of few pixels takes one that is more probably of a large class: it gains more by it."""
    probabilities = torch.full((1, 2, 10, 10), 0.02, dtype=torch.double)
    probabilities[0, 1, 0, :2] = torch.tensor([0.9, 0.45])
    probabilities[:, 1, 2:] = 0.001
    probabilities[:, 0] = 1 - probabilities[:, 1]
    labels = RankSEG(2, 1, metric=metric).refine(torch.zeros(1, 3, 10, 10, dtype=torch.uint8), probabilities)
    assert labels.dtype == torch.long and labels.shape == (1, 10, 10)
    assert labels[0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0] and not labels[0, 1:].any()


def test_sure_probabilities_are_decided_as_they_are() -> None:
    truth = torch.randint(3, (2, 9, 9), generator=torch.Generator().manual_seed(0))
    probabilities = (
        torch.nn.functional.one_hot(truth, 5).permute(0, 3, 1, 2).float()
    )  # two classes are absent
    for metric in ("iou", "dice"):
        assert torch.equal(ranked_labels(probabilities, metric=metric), truth)


def test_images_do_not_depend_on_each_other_and_half_is_computed_in_float32() -> None:
    probabilities = example(5, 30, 40).float()
    labels = ranked_labels(probabilities)
    assert torch.equal(ranked_labels(probabilities[1:]), labels[1:])
    half = probabilities.bfloat16()
    assert torch.equal(ranked_labels(half), ranked_labels(half.float()))


@pytest.mark.parametrize("options", [{"metric": "x"}, {"pruning": 1}, {"pruning": -0.1}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        RankSEG(3, 1, **options)
