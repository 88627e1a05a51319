"""Batches: the same for every method, number of workers and restart; images and labels together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import reading
from common.config.settings import TrainingSettings
from common.datasets.digits import Digits
from common.datasets.manifest import Manifest, SplitManifest
from common.datasets.split import Split
from common.errors import UserError
from common.provenance import Provenance
from common.runs import plan
from common.training.batches import training_batches

SPLIT = SplitManifest(
    [f"train-{i:05d}" for i in range(7)], ["48x48"], {}, {}, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
)
MANIFEST = Manifest(
    "digits", {}, "", [], [], 255, "", {"train": SPLIT}, Provenance("now", None, {}, "none"), 0.0
)
MEAN = [10.0, 20.0, 30.0]


def settings(**changes: object) -> TrainingSettings:
    base = {"datasets": ["digits"], "models": ["deeplabv3-resnet18"], "methods": ["ce"], "seeds": [0]}
    config = reading.complete(base | {"training": {"batch_size": 2} | changes})
    return plan.training_settings(config, "digits", "deeplabv3-resnet18")


def batches(
    first: int = 0, last: int = 6, seed: int = 0, workers: int = 0, **changes: object
) -> list[list[torch.Tensor]]:
    split = Split(Digits(size=48), MANIFEST, "train")
    changes = {"scale": [0.5, 1.5], "crop": [40, 56], "rotation": 10, "jitter": 0.2} | changes
    return list(training_batches(split, settings(**changes), MEAN, seed, first, last, workers))


def equal(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right))


def test_batches_have_the_shape_of_the_crop() -> None:
    for images, labels in batches():
        assert images.shape == (2, 3, 40, 56) and images.dtype == torch.uint8
        assert labels.shape == (2, 40, 56) and labels.dtype == torch.uint8
        assert set(labels.unique().tolist()) <= {*range(11), 255}


def test_training_goes_on_with_the_batches_that_it_would_have_seen() -> None:
    assert equal(batches()[3:], batches(first=3))


def test_batches_do_not_depend_on_workers_or_on_what_else_is_random() -> None:
    torch.manual_seed(123)
    whole = batches()
    torch.manual_seed(321)
    assert equal(whole, batches(workers=2))


def test_another_seed_gives_other_batches() -> None:
    assert not equal(batches(), batches(seed=1))


def test_every_image_is_seen_once_per_epoch() -> None:
    plain = {"scale": [1, 1], "crop": None, "rotation": 0, "jitter": 0, "flip": False}
    images = torch.cat([images for images, _ in batches(last=7, **plain)])
    split = Split(Digits(size=48), MANIFEST, "train")
    for index in range(7):
        counts = [(image == split[index].image).all().item() for image in images]
        assert sum(counts[:7]) == 1 and sum(counts[7:]) == 1


def test_image_and_labels_move_together() -> None:
    """An image that shows its own labels still does after the geometric augmentation."""

    class Echo(Digits):
        def read(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
            labels = np.zeros((48, 48), np.uint8)
            labels[8:30, 10:40] = 7
            return np.repeat(labels[..., None] * 20, 3, 2), labels

    split = Split(Echo(size=48), MANIFEST, "train")
    changes = settings(scale=[0.5, 1.5], crop=[56, 56], rotation=20)
    for images, labels in training_batches(split, changes, [0.0, 0.0, 0.0], 0, 0, 6):
        shown = images[:, 0] > 70
        known = labels != 255
        disagree = (shown != (labels == 7)) & known
        assert disagree.sum() < 0.03 * known.sum(), "but for the pixels of the edge"
        assert (labels == 7).any()


def test_what_lies_outside_the_image_is_void_and_of_the_mean_colour() -> None:
    images, labels = batches(last=1, scale=[0.5, 0.5], rotation=0, jitter=0)[0]
    outside = labels == 255
    assert outside.any()
    for channel, value in enumerate(MEAN):
        assert (images[:, channel][outside] == value).all()


def test_scales_in_steps() -> None:
    sizes = set()
    split = Split(Digits(size=48), MANIFEST, "train")
    for position in range(30):
        cropped = settings(scale=[0.5, 1.0], scale_step=0.25, crop=[48, 48])
        changes = replace(cropped, crop=None, batch_size=1)
        images, _ = next(training_batches(split, changes, MEAN, 0, position, position + 1))
        sizes |= {images.shape[2]}
    assert sizes == {24, 36, 48}


def test_shares_of_a_batch_are_the_batch() -> None:
    split = Split(Digits(size=48), MANIFEST, "train")
    fixed = settings(batch_size=4, crop=[40, 40], rotation=10)
    whole = list(training_batches(split, fixed, MEAN, 0, 0, 3))
    shares = [list(training_batches(split, fixed, MEAN, 0, 0, 3, share=(part, 2))) for part in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first.image) == len(second.image) == 2
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))


def test_images_of_several_sizes_need_a_crop() -> None:
    dataset = Digits(size=48)
    dataset.entry = "mixed"
    sizes = replace(MANIFEST, splits={"train": replace(SPLIT, sizes=["48x48", "48x64"])})
    uncropped = replace(settings(), crop=None)
    with pytest.raises(UserError, match=r"training.crop \(for mixed\): the images have different sizes"):
        training_batches(Split(dataset, sizes, "train"), uncropped, MEAN, 0, 0, 1)
