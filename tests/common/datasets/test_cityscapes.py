"""Cityscapes by either kind of ids, and what its folders may lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import Cityscapes as Table

from common.config import reading
from common.datasets.cityscapes import LAST_ID, TRAINED, Cityscapes
from common.errors import UserError
from common.runs import plan
from common.stages import evaluate, prepare
from tests.common.datasets import layouts


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes_by_either_kind_of_ids(tmp_path: Path, train_ids: bool) -> None:
    dataset = Cityscapes(str(layouts.write_cityscapes(tmp_path, train_ids)))
    assert dataset.splits == ("train", "val")
    assert dataset.names("train") == ["aachen_000000_000019", "ulm_000000_000019"]
    _, labels = dataset.read("val", "lindau_000000_000019")
    assert np.array_equal(labels, np.resize(np.array(list(layouts.IDS.values()), np.uint8), layouts.SIZE))


def test_the_classes_of_cityscapes() -> None:
    """As torchvision has them."""
    table = {known.train_id: known for known in Table.classes if 0 <= known.train_id < 255}
    ours = [(name, *rest) for name, rest in TRAINED.items()]
    assert ours == [(known.name, known.id, known.color) for _, known in sorted(table.items())]
    assert max(known.id for known in Table.classes) == LAST_ID


def test_the_test_split_of_cityscapes_is_void(tmp_path: Path) -> None:
    dataset = Cityscapes(str(layouts.write_cityscapes(tmp_path)), test=True)
    assert (dataset.read("test", "berlin_000000_000019")[1] == 255).all()


def test_a_split_without_labels_cannot_be_scored(tmp_path: Path, tiny: dict) -> None:
    root = str(layouts.write_cityscapes(tmp_path / "data"))
    options = {"cityscapes": {"root": root, "test": True, "allow": ["absent_classes"]}}
    config = reading.complete(tiny | {"datasets": ["cityscapes"], "dataset_options": options})
    prepare.prepare(plan.preparation(config, "cityscapes"))
    with pytest.raises(UserError, match=r"evaluation.split \(for cityscapes\): test has no labelled pixel"):
        evaluate.evaluate(plan.runs(config)[0], plan.execution(config))


def test_what_cityscapes_lacks_is_one_sentence(tmp_path: Path) -> None:
    root = layouts.write_cityscapes(tmp_path)
    (root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match="labelIds.png is missing, and .*labelTrainIds.png beside it too"):
        Cityscapes(str(root)).read("train", "ulm_000000_000019")
    layouts.save(
        root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
        np.full(layouts.SIZE, 34, np.uint8),
    )
    with pytest.raises(UserError, match=r"has the labels \[34\]"):
        Cityscapes(str(root)).read("train", "ulm_000000_000019")
    (root / "gtFine/val").rename(root / "gtFine/away")
    with pytest.raises(UserError, match="gtFine/val is missing: CITYSCAPES_ROOT or dataset_options"):
        Cityscapes(str(root)).names("val")


def test_images_of_a_city_follow_each_other() -> None:
    places = [Cityscapes().sequence("val", f"lindau_{frame}") for frame in ("000002_000019", "000010_000019")]
    assert [city for city, _ in places] == ["lindau", "lindau"] and places[0] < places[1]
    assert Cityscapes().sequence("val", "of_another_kind") is None
