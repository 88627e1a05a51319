"""PASCAL-Context with either masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.datasets.pascal_context import PascalContext
from tests.common.datasets import layouts


@pytest.mark.parametrize("masks", ["59_context_labels", "SegmentationClassContext"])
def test_pascal_context_has_59_classes_and_void(tmp_path: Path, masks: str) -> None:
    dataset = PascalContext(str(layouts.write_context(tmp_path, masks)), masks=masks)
    assert (dataset.names("train"), dataset.names("val")) == (["2008_000000"], ["2008_000001"])
    _, labels = dataset.read("train", "2008_000000")
    values = np.resize(np.arange(60), layouts.SIZE)
    assert np.array_equal(labels, np.where(values == 0, 255, values - 1))
    assert len({*dataset.class_names}) == len({*dataset.colours}) == 59


def test_the_masks_say_how_the_classes_are_numbered() -> None:
    ours, theirs = PascalContext(), PascalContext(masks="SegmentationClassContext")
    assert ours.class_names[:2] == ("aeroplane", "bicycle")
    assert theirs.class_names[:3] == ("aeroplane", "bag", "bed")
    assert {*ours.class_names} == {*theirs.class_names}
    assert dict(zip(ours.class_names, ours.colours)) == dict(zip(theirs.class_names, theirs.colours))


def test_lists_of_mmsegmentation_are_taken_where_there_are_any(tmp_path: Path) -> None:
    root = layouts.write_context(tmp_path, "SegmentationClassContext")
    lists = root / "VOCdevkit/VOC2010/ImageSets/SegmentationContext"
    layouts.lines(lists / "train.txt", ["2008_000001"])
    dataset = PascalContext(str(root), masks="SegmentationClassContext")
    assert dataset.names("train") == ["2008_000001"]
