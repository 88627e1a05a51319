"""Which images the page shows, and which part of them is enlarged."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.datasets.digits import Digits
from common.report import examples, gallery
from common.report.method_labels import MethodLabels
from tests import alignment
from tests.common.datasets import layouts
from tests.conftest import TINY


class Scored:
    """What `choose` needs of predictions."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.names = scores, set(scores)


def test_images_are_chosen_where_methods_differ_most_where_all_are_worst_and_in_the_middle() -> None:
    first = Scored({"a": 90, "b": 10, "c": 60, "d": 61, "e": 80, "only here": 1})
    second = Scored({"a": 90, "b": 12, "c": 95, "d": 60, "e": 79})
    assert gallery.choose([first, second], 1) == [
        ("c", "methods differ most"),
        ("b", "worst of all methods"),
        ("e", "usual"),
    ]
    everything = gallery.choose([first, second], 9)
    assert sorted(name for name, _ in everything) == ["a", "b", "c", "d", "e"]
    assert gallery.choose([first, second], 0) == [] and gallery.choose([], 3) == []
    assert [reason for _, reason in gallery.choose([first], 1)] == ["worst of all methods", "usual"]


def test_the_enlarged_part_is_where_methods_disagree() -> None:
    _, truth = Digits(**TINY["dataset_options"]["digits"]).read("test", "test-00000")
    other = truth.copy()
    other[30:40, 5:15] = (truth[30:40, 5:15] + 1) % 10
    rows, columns = examples._window({"a": truth, "b": other}, truth)
    assert (other != truth)[rows, columns].any()
    flat = np.zeros_like(truth)
    flat[30:40, 5:15] = 1
    rows, columns = examples._window({"a": flat, "b": np.zeros_like(flat)}, flat)
    assert rows.start <= 30 and rows.stop >= 40 and columns.start <= 5 and columns.stop >= 15


@pytest.mark.parametrize("axis", ["x", "y"])
def test_labels_that_are_made_smaller_lie_where_their_image_does(axis: str) -> None:
    means = []
    for index in range(20):
        image, labels = alignment.stripes(60, 730 + 75 * index, 9 + index)
        pair = (image, labels) if axis == "x" else alignment.transposed(image, labels)
        shown = [torch.from_numpy(x.copy()) for x in drawn(pair[0].permute(1, 2, 0).numpy(), pair[1].numpy())]
        pair = shown[0].permute(2, 0, 1), shown[1]
        offsets = alignment.offsets(*(pair if axis == "x" else alignment.transposed(*pair)))
        means.append(offsets.mean())
        assert abs(offsets).max() <= 0.55, "half a pixel, and what compressing the image does to its edges"
    assert abs(np.mean(means)) <= 0.03


def drawn(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image and a method's labels as the page shows them whole."""
    method = MethodLabels("ce", None, {"test/x": 50.0}, {"test/x": 50.0}, {"test/x": labels})
    dataset = Digits()
    dataset.read = lambda split, name: (image, labels)
    pictures = examples.draw_example([method], dataset, "test/x", "usual").pictures
    uris = {picture.title: picture.views["labels"] for picture in pictures}
    opened = {
        title: Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for title, uri in uris.items()
    }
    return [np.array(opened["image"].convert("RGB")), np.array(opened["ce"])]


def test_an_image_that_changed_since_is_not_shown_as_the_one_that_was_scored(tmp_path: Path) -> None:
    dataset = Digits(48, 2, 1, 1)
    dataset.entry = "digits"
    manifest = layouts.prepared(dataset, tmp_path)
    labels = dataset.read("test", "test-00000")[1]
    scores = {"test/test-00000": 50.0}
    method = MethodLabels("ce", None, scores, scores, {"test/test-00000": labels})

    def titles() -> list[str]:
        example = examples.draw_example([method], dataset, "test/test-00000", "usual", manifest)
        return [picture.title for picture in example.pictures]

    assert titles() == ["image", "truth", "ce"]
    real = dataset.read
    dataset.read = lambda split, name: (255 - real(split, name)[0], labels)
    assert titles() == ["ce"]
