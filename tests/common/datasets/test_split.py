"""Splits: images joined from several, their colours, and which of them are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.datasets.base import panel_indices
from common.datasets.digits import Digits
from common.datasets.split import Split
from common.runs.jobs import Preparation
from common.stages.prepare import prepare


@pytest.fixture
def joined(tmp_path: Path) -> Split:
    dataset = Digits(size=48, train_images=5, val_images=2, test_images=1)
    dataset.entry = "digits"
    job = Preparation(dataset, {}, "0", tmp_path)
    prepare(job)
    return Split(dataset, job.manifest(), "train+val")


def test_joined_splits(joined: Split) -> None:
    assert len(joined) == 7 and joined.first_part == 5
    assert joined.sizes == {"48x48"}
    assert [part for part, _ in joined.names] == 5 * ["train"] + 2 * ["val"]
    image, labels = joined[6]
    assert image.shape == (3, 48, 48) and labels.shape == (48, 48)
    assert image.dtype == labels.dtype == torch.uint8


def test_colours_are_those_of_all_pixels_of_all_parts(joined: Split) -> None:
    pixels = torch.cat([joined[i].image.flatten(1) for i in range(len(joined))], dim=1).double() / 255
    colours = joined.colours()
    assert colours["mean"] == pytest.approx(pixels.mean(dim=1).tolist(), abs=1e-5)
    assert colours["std"] == pytest.approx(pixels.std(dim=1, correction=0).tolist(), abs=1e-5)


@pytest.mark.parametrize(("length", "indices"), [(300, [50, 150, 250]), (3, [0, 1, 2]), (1, [0])])
def test_panels_show_images_from_all_over_the_split(length: int, indices: list[int]) -> None:
    assert panel_indices(length) == indices
