"""The golden values: the shared code makes of fixed input what it did, and would be noticed if it did not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

import methods.base
from common.networks import network
from common.runs import plan, recipes
from common.training import batches, loop
from tests.common.runs import golden
from tests.common.runs.golden import AUGMENTATIONS, OPTIMISERS, SCORED

ADVICE = (
    "these golden values moved, so results are others than before: if that is meant, add a line to "
    "recipes.{} and write the values anew (CONTRIBUTING.md, Recipes)"
)


def test_each_value_is_compared() -> None:
    assert {*golden.values()} == {*golden.stored()}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_crops(name: str) -> None:
    assert not golden.moved(golden.crops(name)), ADVICE.format("TRAINING")


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps(name: str) -> None:
    assert not golden.moved(golden.losses(name)), ADVICE.format("TRAINING")


@pytest.mark.parametrize("name", SCORED)
def test_scores(name: str) -> None:
    assert not golden.moved(golden.scores(name)), ADVICE.format("SCORING")


def test_scores_of_controls() -> None:
    assert not golden.moved(golden.control_scores()), ADVICE.format("SCORING")


@pytest.mark.parametrize("name", SCORED)
def test_no_score_is_a_close_call(name: str) -> None:
    method, settings = SCORED[name]
    with golden.prepared(methods=[method], evaluation=settings) as config:
        predict = golden.fixed_predictor(plan.run(config, "digits", golden.MODEL, method, 0))
        for number in golden.PATTERNS["test"]:
            image = torch.from_numpy(golden.pattern(number)[0]).permute(2, 0, 1)[None]
            with torch.inference_mode():
                first, second = predict(image).probabilities.topk(2, dim=1).values[0]
            assert (first - second).min() > 1e-4
            assert (15 * first - (15 * first).round()).abs().min() > 1e-4, "ECE has 15 bins"


def noticed(values: golden.Values) -> set[str]:
    """The kinds of values that a change moves."""
    return {sentence.partition(":")[0].rpartition("/")[2] for sentence in golden.moved(values)}


def test_labels_half_a_pixel_off_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(labels: Tensor, size: Sequence[int], angle: float, later: Sequence[int]) -> Tensor:
        """Labels by the nearest pixel up and to the left, as torch's `nearest` has it."""
        return functional.interpolate(labels[None, None].float(), tuple(size))[0, 0].to(labels.dtype)

    monkeypatch.setattr(batches, "moved_labels", shifted)
    assert noticed(golden.crops("scale")) == noticed(golden.crops("steps")) == {"labels"}
    assert noticed(golden.crops("plain")) == set(), "nothing is resized"


def test_images_half_a_pixel_off_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = v2.functional.resize

    def shifted(image: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """An image half a pixel further left, before it is resized as ever."""
        halves = (image.float() + image.roll(-1, 2).float()) / 2
        return resize(halves.round().to(torch.uint8), *arguments, **options)

    monkeypatch.setattr(v2.functional, "resize", shifted)
    assert noticed(golden.crops("scale")) == {"images"}


def of_all_pixels(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy as the mean over all pixels, void ones included."""
    return functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum") / labels.numel()


def of_images(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy as the mean over images of their means."""
    pairs = zip(logits.split(1), labels.long().split(1), strict=True)
    return torch.stack([functional.cross_entropy(*pair, ignore_index=255) for pair in pairs]).mean()


@pytest.mark.parametrize("average", [of_all_pixels, of_images])
def test_another_average_of_the_loss_is_noticed(
    average: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods.base, "cross_entropy", average)
    assert noticed(golden.losses("sgd")) == {"losses"}


def test_another_upsampling_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stretched(logits: Tensor, size: Sequence[int], *_: object) -> Tensor:
        """Logits upsampled with the corner cells on the corner pixels."""
        return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)

    monkeypatch.setattr(network, "enlarged", stretched)
    assert noticed(golden.losses("sgd")) == {"losses"}
    assert {"confusion", "trimap", "boundary", "contour", "bins"} <= noticed(golden.scores("one"))
    assert noticed(golden.control_scores()) == {"ties"}


def test_another_schedule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_rate = loop.set_learning_rate
    monkeypatch.setattr(loop, "set_learning_rate", lambda o, s, iteration: set_rate(o, s, iteration + 1))
    assert noticed(golden.losses("adamw")) == {"losses", "rates"}


def test_every_recipe_has_a_line_per_number() -> None:
    for recipe in (recipes.TRAINING, recipes.SCORING, recipes.MEASURING):
        assert recipe.number == len(recipe.changes) >= 1 and recipe.since(recipe.number) == ""
        assert recipe.since(0).startswith(recipe.changes[0])
