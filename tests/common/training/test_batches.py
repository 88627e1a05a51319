"""Batches: the same for every method, number of workers and restart; images and labels together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from common.config import reading
from common.config.settings import TrainingSettings
from common.datasets import fingerprints
from common.datasets.digits import Digits
from common.datasets.manifest import Manifest, SplitManifest
from common.datasets.split import Split
from common.errors import UserError
from common.provenance import Provenance
from common.runs import plan
from common.training.batches import augmentation, training_batches
from tests import alignment

DATASET = Digits(size=48, train_images=7)
NAMES = DATASET.names("train")
PRINTS = [fingerprints.read(DATASET, "train", name).line for name in NAMES]
SPLIT = SplitManifest(NAMES, ["48x48"], {}, {}, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None, PRINTS)
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
    split = Split(DATASET, MANIFEST, "train")
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
    split = Split(DATASET, MANIFEST, "train")
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

    dataset = Echo(size=48, train_images=7)
    prints = [fingerprints.read(dataset, "train", name).line for name in NAMES]
    manifest = replace(MANIFEST, splits={"train": replace(SPLIT, fingerprints=prints)})
    split = Split(dataset, manifest, "train")
    changes = settings(scale=[0.5, 1.5], crop=[56, 56], rotation=20)
    for images, labels in training_batches(split, changes, [0.0, 0.0, 0.0], 0, 0, 6):
        shown = images[:, 0] > 70
        known = labels != 255
        disagree = (shown != (labels == 7)) & known
        assert disagree.sum() < 0.03 * known.sum(), "but for the pixels of the edge"
        assert (labels == 7).any()


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"scale": [0.75, 1.25]}, 0.5),
        ({"scale": [0.75, 1.5]}, 0.5),
        ({"scale": [0.5, 2], "interpolation": "bicubic", "padding_place": "end"}, 0.5),
        ({"scale": [0.5, 2], "scale_step": 0.25}, 0.5),
        ({"rotation": 10}, 0.65),  # with steps that the image's own edge gets
        ({"scale": [0.5, 1.5], "rotation": 10}, 0.65),
    ],
)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_labels_lie_where_the_image_does(changes: dict, largest: float, axis: str) -> None:
    """With crop, flip and padding; in the mean of 250 draws, and at every single place."""
    crop = {"crop": [40, 100] if axis == "x" else [100, 40]}
    augment = augmentation(settings(**changes | crop), [alignment.MIDDLE] * 3)
    draws = []
    for draw in range(250):
        sample = alignment.stripes(32 + draw % 3, 80 + draw % 5, 6 + draw % 17)
        image, labels = sample if axis == "x" else alignment.transposed(*sample)
        torch.manual_seed(draw)
        sample = [x.as_subclass(Tensor) for x in augment(Image(image), Mask(labels))]
        draws.append(alignment.offsets(*(sample if axis == "x" else alignment.transposed(*sample))))
    assert abs(np.mean([draw.mean() for draw in draws])) <= 0.03
    assert max(abs(draw.mean()) for draw in draws) <= 0.5
    assert max(abs(draw).max() for draw in draws) <= largest


def test_what_lies_outside_the_image_is_void_and_of_the_mean_colour() -> None:
    images, labels = batches(last=1, scale=[0.5, 0.5], rotation=0, jitter=0)[0]
    outside = labels == 255
    assert outside.any()
    for channel, value in enumerate(MEAN):
        assert (images[:, channel][outside] == value).all()


def test_padding_may_be_black_and_at_the_end() -> None:
    changes = settings(scale=[1, 1], crop=[40, 50], flip=False, padding="black", padding_place="end")
    original = torch.randint(1, 256, (3, 24, 60), dtype=torch.uint8)
    places = set()
    for _ in range(50):
        image, labels = augmentation(changes, MEAN)(
            Image(original), Mask(torch.zeros(24, 60, dtype=torch.uint8))
        )
        assert (labels[:24] == 0).all() and (labels[24:] == 255).all() and not image[:, 24:].any()
        places |= {x for x in range(11) if torch.equal(image[:, :24], original[:, :, x : x + 50])}
    assert len(places) > 5, "the other side is cropped at random"


def test_what_is_rotated_in_is_black_if_padding_is() -> None:
    changes = settings(rotation=45, padding="black", flip=False)
    torch.manual_seed(1)
    image, labels = augmentation(changes, MEAN)(
        Image(torch.full((3, 40, 40), 200, dtype=torch.uint8)), Mask(torch.zeros(40, 40, dtype=torch.uint8))
    )
    assert (labels == 255).sum() > 50 and (image[:, labels == 255].float().mean() < 40)


def test_images_may_be_resized_bicubically() -> None:
    image = torch.randint(256, (3, 20, 30), dtype=torch.uint8)
    changes = settings(scale=[1.5, 1.5], flip=False, interpolation="bicubic")
    resized, labels = augmentation(changes, MEAN)(Image(image), Mask(image[0] % 3))
    pillow = PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        (45, 30), PIL.Image.Resampling.BICUBIC
    )
    difference = resized.permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
    assert difference.abs().max() <= 1 and labels.max() <= 2


@pytest.mark.parametrize("first", [True, False])
def test_jitter_may_leave_what_lies_outside_alone(first: bool) -> None:
    changes = {"scale": [0.5, 0.5], "rotation": 0, "jitter": 0.5, "jitter_first": first}
    images, labels = batches(last=1, **changes)[0]
    outside = labels == 255
    colours = images.permute(0, 2, 3, 1)[outside].unique(dim=0)
    assert outside.any() and (colours.tolist() == [MEAN]) == first


def test_scales_in_steps() -> None:
    sizes = set()
    split = Split(DATASET, MANIFEST, "train")
    for position in range(30):
        cropped = settings(scale=[0.5, 1.0], scale_step=0.25, crop=[48, 48])
        changes = replace(cropped, crop=None, batch_size=1)
        images, _ = next(training_batches(split, changes, MEAN, 0, position, position + 1))
        sizes |= {images.shape[2]}
    assert sizes == {24, 36, 48}


def test_shares_of_a_batch_are_the_batch() -> None:
    split = Split(DATASET, MANIFEST, "train")
    fixed = settings(batch_size=4, crop=[40, 40], rotation=10)
    whole = list(training_batches(split, fixed, MEAN, 0, 0, 3))
    shares = [list(training_batches(split, fixed, MEAN, 0, 0, 3, share=(part, 2))) for part in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first.image) == len(second.image) == 2
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))


def test_images_of_several_sizes_need_a_crop() -> None:
    dataset = Digits(size=48, train_images=7)
    dataset.entry = "mixed"
    sizes = replace(MANIFEST, splits={"train": replace(SPLIT, sizes=["48x48", "48x64"])})
    uncropped = replace(settings(), crop=None)
    with pytest.raises(UserError, match=r"training.crop \(for mixed\): the images have different sizes"):
        training_batches(Split(dataset, sizes, "train"), uncropped, MEAN, 0, 0, 1)
