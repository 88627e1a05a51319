"""IoU and accuracy from confusion counts, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from common.scoring import metrics


def test_equals_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 5, (2, 30, 40))
    truth[:5] = 255
    valid = truth != 255
    counts = metrics.confusion(torch.from_numpy(predicted), torch.from_numpy(truth), 5)
    assert np.array_equal(counts, confusion_matrix(truth[valid], predicted[valid], labels=range(5)))
    expected = jaccard_score(truth[valid], predicted[valid], average=None)
    np.testing.assert_allclose(metrics.iou(counts), expected)
    assert metrics.mean_iou(counts) == pytest.approx(expected.mean())
    assert metrics.pixel_accuracy(counts) == pytest.approx((truth == predicted)[valid].mean())


def test_classes_in_neither_truth_nor_prediction_do_not_count() -> None:
    truth = torch.tensor([[0, 0, 1, 1]])
    counts = metrics.confusion(torch.tensor([[0, 1, 1, 2]]), truth, 5)
    np.testing.assert_allclose(metrics.iou(counts), [1 / 2, 1 / 3, 0, np.nan, np.nan])
    assert metrics.mean_iou(counts) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    scores = metrics.scores(counts, list("abcde"))
    assert scores["iou"]["d"] is None and scores["iou"]["c"] == 0


def test_the_mean_is_over_the_whole_split_not_over_images() -> None:
    first = metrics.confusion(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]), 2)
    second = metrics.confusion(torch.tensor([[1, 1]]), torch.tensor([[1, 1]]), 2)
    together = metrics.mean_iou(first + second)
    assert together == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert together != pytest.approx((metrics.mean_iou(first) + metrics.mean_iou(second)) / 2)


def test_a_split_without_labels_has_no_score() -> None:
    counts = metrics.confusion(torch.zeros(3, 3), torch.full((3, 3), 255), 2)
    assert counts.sum() == 0
    for score in (metrics.mean_iou, metrics.pixel_accuracy):
        with pytest.raises(ValueError, match="no pixel is labelled"):
            score(counts)


def counts_of_images(*pairs: tuple[list[int], list[int]], classes: int = 3) -> np.ndarray:
    """Confusion counts of images, from their labels and what is predicted."""
    return np.stack([metrics.confusion(torch.tensor(p), torch.tensor(t), classes) for t, p in pairs])


def test_scores_of_images() -> None:
    # IoU of the classes in the truth: 1/2 and 1/2; 1; 3/4 (class 2 is predicted, but not there)
    images = [([0, 0, 1], [0, 1, 1]), ([1, 1], [1, 1]), ([0, 0, 0, 0], [0, 0, 0, 2])]
    counts = counts_of_images(*images)
    assert metrics.Overlaps.of(counts).mious.tolist() == [0.5, 1, 0.75]
    scores = metrics.image_scores(metrics.Overlaps.of(counts))
    assert scores["miou_i"] == pytest.approx((0.5 + 1 + 0.75) / 3)
    assert scores["miou_c"] == pytest.approx(((0.5 + 0.75) / 2 + (0.5 + 1) / 2) / 2), "no image has class 2"
    assert scores["worst_quarter"] == 0.5, "one image at least"
    assert scores["worst_class"] == pytest.approx(4 / 6), "class 0; class 2 is in no truth"


def test_the_worst_quarter_is_of_whole_images_with_labels() -> None:
    images = [([0] * 10, [0] * right + [1] * (10 - right)) for right in (9, 1, 5, 3, 8, 7, 6, 4)]
    counts = counts_of_images(*images, ([255, 255], [0, 0]))
    assert np.isnan(metrics.Overlaps.of(counts).mious[-1])
    scores = metrics.image_scores(metrics.Overlaps.of(counts))
    assert scores["worst_quarter"] == pytest.approx((0.1 + 0.3) / 2)
    assert scores["miou_i"] == pytest.approx(0.5375)
    with pytest.raises(ValueError, match="no pixel is labelled"):
        metrics.image_scores(metrics.Overlaps.of(counts[-1:]))
