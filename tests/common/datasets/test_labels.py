"""Whatever a dataset's module reads is an image with legal labels, or a sentence says that it is not."""

from __future__ import annotations

import numpy as np
import pytest

from common.datasets.digits import Digits
from common.datasets.fingerprints import read
from common.datasets.inspection import inspect
from common.errors import UserError

SIZE = (16, 16)
IMAGE, LABELS = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)


def labels(value: int) -> np.ndarray:
    """Labels of which one is some value."""
    changed = LABELS.copy()
    changed[3, 4] = value
    return changed


PLACE = "dataset digits: .* of train"
WRONG = {
    "K": (IMAGE, labels(11), f"{PLACE} has the label 11: labels must be in 0..10, or 255 for void"),
    "37": (IMAGE, labels(37), f"{PLACE} has the label 37: labels must be in 0..10"),
    "254": (IMAGE, labels(254), f"{PLACE} has the label 254: labels must be in 0..10"),
    "long labels": (
        IMAGE,
        LABELS.astype(np.int64),
        rf"{PLACE} is read as uint8 \[16, 16, 3\] with labels int64",
    ),
    "labels of booleans": (IMAGE, LABELS.astype(bool), f"{PLACE} is read as .* with labels bool"),
    "a float image": (IMAGE.astype(np.float32), LABELS, f"{PLACE} is read as float32 .* must give uint8"),
    "a 16-bit image": (IMAGE.astype(np.uint16), LABELS, f"{PLACE} is read as uint16"),
    "a grey image": (IMAGE[..., 0], LABELS, rf"{PLACE} is read as uint8 \[16, 16\] with labels"),
    "channels first": (IMAGE.transpose(2, 0, 1), LABELS, rf"{PLACE} is read as uint8 \[3, 16, 16\]"),
    "another size": (
        IMAGE[:8],
        LABELS,
        rf"{PLACE} is read as uint8 \[8, 16, 3\] with labels uint8 \[16, 16\]",
    ),
    "labels with channels": (
        IMAGE,
        LABELS[..., None],
        r"with labels uint8 \[16, 16, 1\]: its module must give",
    ),
}


@pytest.mark.parametrize(("image", "label_map", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_read_is_checked(
    image: np.ndarray, label_map: np.ndarray, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is prepared, trained on and scored."""
    monkeypatch.setattr(Digits, "read", lambda *_: (image, label_map))
    dataset = Digits(size=48, train_images=1, val_images=1, test_images=1)
    dataset.entry = "digits"
    with pytest.raises(UserError, match=sentence):
        read(dataset, "train", dataset.names("train")[0])
    with pytest.raises(UserError, match=sentence.replace("train", "(train|val|test)")):
        inspect(dataset)


@pytest.mark.parametrize("value", [0, 10, 255])
def test_classes_and_void_are_legal(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "read", lambda *_: (IMAGE, labels(value)))
    assert read(Digits(), "train", "one").labels[3, 4] == value
