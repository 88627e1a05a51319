"""What `evaluate` writes of each image is enough to compute every score again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common import boundaries, evaluate, metrics, runs, train
from common import config as configuration
from common.prepare import prepare
from tests.conftest import TINY


def test_every_score_is_that_of_the_counts(tmp_path: Path) -> None:
    config = configuration.complete(TINY | {"methods": ["crf-1"], "results": str(tmp_path)})
    (run,) = runs.runs(config)
    prepare(config, "digits")
    train.train(config, run.training)
    evaluate.evaluate(config, run)
    written = json.loads(run.metrics.read_text())
    names = list(written["iou"])
    with np.load(run.per_image) as arrays:
        counts = dict(arrays)
    assert len(counts["names"]) == 4 and counts["trimap"].shape == (4, 5, 3, 11)
    expected = {
        **metrics.scores(counts["confusion"].sum(axis=0), names),
        **boundaries.scores(counts, names),
        **metrics.calibration_scores(counts["calibration"], counts["nll"]),
    }
    assert {key: written[key] for key in expected} == expected
    pixels = counts["confusion"].sum(axis=(1, 2))
    assert np.array_equal(counts["calibration"][:, :, 0].sum(axis=1), pixels)
    right = np.trace(counts["confusion"], axis1=1, axis2=2)
    assert np.array_equal(counts["calibration"][:, :, 1].sum(axis=1), right)
