"""Images that are held out: about the share that is asked for, whole sequences, the same every time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.config import reading
from common.datasets.holding_out import held_out, others
from common.errors import UserError
from common.runs import plan
from common.stages import prepare
from common.training.images import training_images, validation_images


def split(*lengths: int) -> Any:
    """A split of sequences with so many images, and as many images that belong to none."""
    names = [f"{video}-{frame}" for video, length in enumerate(lengths) for frame in range(length)]

    def sequence(_: str, name: str) -> tuple[str, int] | None:
        video, frame = name.split("-")
        return (video, int(frame)) if lengths[int(video)] > 1 else None

    class Images(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.names)

    dataset = SimpleNamespace(sequence=sequence, entry="streets")
    return Images(names=[("train", name) for name in names], dataset=dataset)


@pytest.mark.parametrize("seed", range(5))
def test_single_images_are_held_out_by_their_share(seed: int) -> None:
    images = split(*[1] * 100)
    taken = held_out(images, 0.1, seed)
    assert len(taken) == 10 and taken == sorted(taken) == held_out(images, 0.1, seed)
    assert sorted([*taken, *others(images, taken)]) == [*range(100)]
    assert taken != held_out(images, 0.1, seed + 100)


@pytest.mark.parametrize("seed", range(5))
def test_sequences_stay_together(seed: int) -> None:
    images = split(*[7] * 10, *[1] * 30)
    taken = held_out(images, 0.3, seed)
    videos = [images.names[index][1].split("-")[0] for index in taken]
    assert all(videos.count(video) in (1, 7) for video in videos)
    assert abs(len(taken) - 30) <= 3


def test_something_is_held_out_and_something_left() -> None:
    assert len(held_out(split(60, 50, 200), 0.01, 0)) == 50, "the smallest sequence"
    assert len(held_out(split(1, 1), 0.9, 0)) == 1
    with pytest.raises(UserError, match="all images that are trained on belong to one sequence"):
        held_out(split(9), 0.1, 0)


def test_the_digest_knows_what_is_held_out_and_which_images_belong_together(tiny: dict) -> None:
    hold_out = {"share": 0.25, "seed": 1000}
    without = reading.complete(tiny)
    config = reading.complete(tiny | {"training": tiny["training"] | {"hold_out": hold_out}})
    names = ("digits", tiny["models"][0], "ce", 0)
    assert plan.run(config, *names).digest != plan.run(without, *names).digest
    run = plan.training(config, *names)
    prepare.prepare(run.data)
    parts = [
        make(run.data.dataset, run.data.manifest(), run.settings)
        for make in (training_images, validation_images)
    ]
    trained, validated = ({*part.names} for part in parts)
    assert len(trained) == 9 and len(validated) == 3 and not trained & validated
    image, _ = parts[1][0]
    assert image.shape[0] == 3
