"""Which label maps are kept, and that they come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images import label_maps
from common.images.label_maps import LabelMaps

COLOURS = ((0, 0, 0), (200, 0, 0), (0, 200, 0))


def kept(path: Path, limit: int, order: list[int], seed: int = 0) -> list[str]:
    maps = LabelMaps(limit, COLOURS)
    for index in order:
        noise = np.random.default_rng([seed, index]).integers(0, 3, (40, 50), dtype=np.uint8)
        maps.add(f"test/{index}", noise)
    maps.write(path)
    return label_maps.names(path)


def test_labels_come_back_as_they_were_and_are_pictures_in_the_dataset_s_colours(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (7, 9), dtype=np.uint8)
    void = labels.copy()
    void[0, 0] = 255
    maps = LabelMaps(10**6, COLOURS)
    maps.add("test/a", labels)
    maps.add("val/b", void)
    maps.write(tmp_path / "labels.zip")
    assert label_maps.names(tmp_path / "labels.zip") == ["test/a", "val/b"]
    assert np.array_equal(label_maps.read(tmp_path / "labels.zip", "test/a"), labels)
    assert np.array_equal(label_maps.read(tmp_path / "labels.zip", "val/b"), void)
    (tmp_path / "a.png").write_bytes(label_maps.png(labels, np.array(COLOURS, np.uint8)))
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png").convert("RGB")), np.array(COLOURS)[labels])


def test_what_is_kept_fits_and_depends_on_names_not_on_order_or_content(tmp_path: Path) -> None:
    path = tmp_path / "labels.zip"
    forwards = kept(path, 5000, list(range(30)))
    assert 3 < len(forwards) < 15 and path.stat().st_size < 5000 + 200 * len(forwards)
    assert kept(path, 5000, list(range(29, -1, -1))) == forwards
    other = kept(path, 2500, list(range(30)), seed=1)
    assert len(other) > 1 and set(other) < set(forwards), "a smaller limit keeps some of the same"


def test_without_a_limit_there_is_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.zip"
    kept(path, 5000, [1])
    assert kept(path, 0, [1, 2]) == [] and path.exists(), "or else it would be missing, and made again"


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "labels.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"cannot be read .*: delete it"):
        label_maps.names(tmp_path / "labels.zip")
    kept(tmp_path / "labels.zip", 5000, [1])
    with pytest.raises(UserError, match="lacks test/2"):
        label_maps.read(tmp_path / "labels.zip", "test/2")
