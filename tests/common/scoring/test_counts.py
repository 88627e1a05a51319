"""What `evaluate` writes of each image is enough to compute every score again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import reading
from common.config.settings import plain
from common.errors import UnreadableRecord, UserError
from common.files import read_json
from common.runs import plan
from common.scoring.counts import SplitCounts, image_counts
from common.scoring.evidence import Evidence
from common.stages import evaluate, prepare, train
from tests.conftest import TINY


def test_every_score_is_that_of_the_counts(tmp_path: Path) -> None:
    config = reading.complete(TINY | {"methods": ["crf-1"], "results": str(tmp_path)})
    (run,) = plan.runs(config)
    execution = plan.execution(config)
    prepare.prepare(run.data)
    train.train(run.training, execution)
    evaluate.evaluate(run, execution)
    written = read_json(run.metrics)
    counts = SplitCounts.read(run.per_image)
    assert len(counts.names) == 4 and counts.trimap.shape == (4, 5, 3, 11)
    expected = plain(counts.scores(list(written["iou"])))
    assert {*expected} >= {"miou", "boundary_iou", "ece", "nll", "reliability"}
    assert {key: written[key] for key in expected} == expected
    pixels = counts.confusion.sum(axis=(1, 2))
    assert np.array_equal(counts.calibration[:, :, 0].sum(axis=1), pixels)
    right = np.trace(counts.confusion, axis1=1, axis2=2)
    assert np.array_equal(counts.calibration[:, :, 1].sum(axis=1), right)


def counts_of_two(certain: bool) -> SplitCounts:
    """The counts of two images of two classes, with probabilities or without."""
    labels = torch.tensor([[0, 1], [1, 255]], dtype=torch.uint8)
    evidence = Evidence.of(torch.full((2, 2, 2), 0.5), labels) if certain else None
    images = [image_counts(torch.zeros_like(labels), labels, 2, evidence)] * 2
    return SplitCounts.of(np.array(["test/a", "test/b"]), images)


@pytest.mark.parametrize("certain", [True, False])
def test_counts_are_read_as_they_were_written(certain: bool, tmp_path: Path) -> None:
    counts = counts_of_two(certain)
    counts.write(tmp_path / "per_image.npz")
    again = SplitCounts.read(tmp_path / "per_image.npz")
    for key in SplitCounts.__dataclass_fields__:
        assert np.array_equal(getattr(again, key), getattr(counts, key)), key
    assert (again.calibration is None) == (again.nll is None) == (not certain)
    assert ("ece" in again.scores(["a", "b"])) == certain, "labels alone have no calibration"
    assert again.total.tolist() == [[2, 0], [4, 0]]


def test_damaged_counts_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    with pytest.raises(UserError, match="is missing"):
        SplitCounts.read(path)
    counts_of_two(certain=False).write(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        SplitCounts.read(path)
    np.savez(path, names=np.array(["test/a"]), confusion=np.zeros((1, 2, 2)))
    with pytest.raises(UnreadableRecord, match="lacks boundary, contour, trimap: delete its folder"):
        SplitCounts.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contour": np.zeros((1, 4, 2))}, r"has contour of shape \(1, 4, 2\), not \(2, 4, 2\)"),
        ({"nll": np.zeros((2, 1))}, r"has nll of shape \(2, 1\), not \(2,\)"),
        ({"confusion": np.zeros((2, 3, 2))}, r"has confusion of shape \(2, 3, 2\), not \(2, 2, 2\)"),
        ({"names": np.array([["test/a", "test/b"]])}, r"has names of shape \(1, 2\), not \(2,\)"),
    ],
)
def test_counts_of_other_shapes_are_one_sentence(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    np.savez(path, **(asdict(counts_of_two(certain=True)) | change))
    with pytest.raises(UnreadableRecord, match=f"{message}.*: delete its folder and evaluate again"):
        SplitCounts.read(path)


def test_counts_that_are_older_than_objects_have_the_other_scores(tmp_path: Path) -> None:
    new = counts_of_two(certain=True)
    path = tmp_path / "per_image.npz"
    np.savez(path, **{key: array for key, array in asdict(new).items() if key != "objects"})
    old = SplitCounts.read(path)
    assert old.objects is None
    ours, theirs = new.scores(["a", "b"]), old.scores(["a", "b"])
    assert theirs["recall_by_size"] == {"small": None, "medium": None, "large": None}
    assert ours["recall_by_size"]["small"] == pytest.approx((1 + 0) / 2)
    assert ours | {"recall_by_size": None} == theirs | {"recall_by_size": None}


def test_objects_of_other_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    arrays = asdict(counts_of_two(certain=True))
    arrays["objects"] = arrays["objects"] + 1
    np.savez(path, **arrays)
    with pytest.raises(UnreadableRecord, match="objects have other pixels than confusion"):
        SplitCounts.read(path)
