"""Digits: drawn, the same every time, with neighbours that tell of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.datasets import canvases, digits, fingerprints
from common.datasets.digits import SOURCE, Digits, source


def test_digits_are_the_same_every_time() -> None:

    first = Digits(size=48).read("train", "train-00003")
    digits._compose.cache_clear()
    again = Digits(size=48).read("train", "train-00003")
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    other = Digits(size=48, seed=1).read("train", "train-00003")
    assert not np.array_equal(first[0], other[0])


def test_digits_are_images_with_legal_labels() -> None:
    dataset = Digits()
    values = set()
    for name in dataset.names("train")[:60]:
        image, labels = dataset.read("train", name)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert labels.shape == (64, 64) and labels.dtype == np.uint8
        values |= set(np.unique(labels).tolist())
    assert values == set(range(11)), "background and every digit occur"


def test_neighbouring_digits_tell_of_each_other() -> None:
    """The digits of a canvas are consecutive, modulo ten."""
    dataset = Digits()
    for name in dataset.names("val")[:40]:
        labels = sorted(set(np.unique(dataset.read("val", name)[1]).tolist()) - {0})
        digits = {label - 1 for label in labels}
        starts = [d for d in digits if (d - 1) % 10 not in digits]
        gaps = len(starts)
        assert gaps <= 2, f"{name} shows {sorted(digits)}: a run, of which clutter may hide one digit"


def test_writers_of_the_splits_are_apart() -> None:
    """Every writer filled in the same form: the file repeats its first labels where one begins."""
    images, targets = source()
    for split in SOURCE.values():
        assert np.array_equal(targets[split.start : split.start + 60], targets[:60])
    used = [set(range(*SOURCE[split].indices(len(images)))) for split in ("train", "val", "test")]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    assert len(set.union(*used)) == len(images) == 1797


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    images, targets = source()
    loaded = load_digits()
    assert np.array_equal(images, (loaded.images / 16).astype(np.float32))
    assert np.array_equal(targets, loaded.target) and targets.dtype == loaded.target.dtype


def test_canvases_that_were_kept_are_the_drawn_ones_or_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = Digits(size=48, train_images=3, val_images=2, test_images=2)
    drawn = fingerprints.read(dataset, "train", "train-00002")
    assert dataset.kept("train", "train-00002") is None, "nothing was kept yet"
    dataset.keep()
    kept = fingerprints.read_kept(dataset, "train", "train-00002", drawn.line)
    assert kept is not None and kept.fingerprints == drawn.fingerprints
    assert np.array_equal(kept.image, drawn.image) and np.array_equal(kept.labels, drawn.labels)
    assert fingerprints.read_kept(dataset, "train", "train-00001", drawn.line) is None, "it is another"
    for path in (tmp_path / "structseg").glob("digits-*.npy"):
        path.write_bytes(path.read_bytes()[:-9])
    canvases._read.cache_clear()
    assert dataset.kept("train", "train-00002") is None, "a damaged file is none"
