"""The labellings that bracket every table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from common import config as configuration
from common import controls, runs
from common.prepare import prepare
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, runs.Control]:
    config = configuration.complete(TINY | {"results": str(tmp_path_factory.mktemp("results"))})
    prepare(config, "digits")
    controls.evaluate(config, "digits", MODEL)
    return {control.name: control for control in runs.controls(config, "digits", MODEL)}


def test_their_scores_come_from_counts_like_those_of_runs(written: dict[str, runs.Control]) -> None:
    for control in written.values():
        scores = json.loads(control.metrics.read_text())
        with np.load(control.per_image) as arrays:
            assert arrays["names"].tolist() == [f"test/test-{i:05d}" for i in range(4)]
            assert {"confusion", "trimap", "boundary", "contour"} <= {*arrays}
            assert scores["pixel_accuracy"] == pytest.approx(
                np.trace(arrays["confusion"].sum(axis=0)) / arrays["confusion"].sum()
            )
        assert scores["control"] == control.name


def test_the_majority_is_one_class(written: dict[str, runs.Control]) -> None:
    with np.load(written["majority"].per_image) as arrays:
        assert (arrays["confusion"].sum(axis=(0, 1)) > 0).sum() == 1
        assert arrays["contour"][:, :2].sum() == 0
    manifest = {"splits": {"a": {"pixels": {"x": 5, "y": 4}}, "b": {"pixels": {"x": 1, "y": 3}}}}
    labels = torch.zeros(2, 3, dtype=torch.uint8)
    assert controls.majority(manifest, ["a"])(labels).unique().tolist() == [0]
    assert controls.majority(manifest, ["a", "b"])(labels).unique().tolist() == [1]


def test_the_ceiling_is_far_above_the_majority_and_below_the_truth(written: dict[str, runs.Control]) -> None:
    low, high = (json.loads(written[name].metrics.read_text())["miou"] for name in ("majority", "ceiling"))
    assert low < 0.3 < high < 1


def test_the_ceiling_is_not_shifted_where_corners_are_aligned() -> None:
    changes = {"output_stride": 16, "input_multiple": 16, "align_corners": True}
    options = configuration.complete(TINY)["model_options"][MODEL] | changes
    ceiling = controls.Ceiling("deeplabv3-test_resnet", options, 3)
    labels = torch.zeros(129, 145, dtype=torch.uint8)
    labels[40:, :] = 1  # 40 and 72 lie in the middle between two cells
    labels[:, 72:] = 2
    wrong = ceiling(labels) != labels
    assert wrong.float().mean() < 0.02, "but in the very middle and at the corner of three regions"


@pytest.mark.parametrize("model", ["segformer-mit_b0"])
def test_networks_that_look_at_numbers_have_a_ceiling_too(model: str) -> None:
    base = TINY | {"models": [model], "model_options": {model: {"weights": "none"}}}
    options = configuration.complete(base)["model_options"][model]
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    assert torch.equal(controls.Ceiling(model, options, 3)(labels), labels)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_ceiling_sees_cells(stride: int) -> None:
    """A region of whole cells is seen as it is, but for its corners; a thin line of fewer pixels vanishes."""
    options = configuration.complete(TINY)["model_options"][MODEL] | {"output_stride": stride}
    ceiling = controls.Ceiling("deeplabv3-test_resnet", options, 3)
    labels = torch.zeros(4 * stride + 3, 6 * stride, dtype=torch.uint8)
    labels[:, 3 * stride :] = 1
    seen = ceiling(labels)
    assert seen.shape == labels.shape and torch.equal(seen, labels)
    labels[5, :] = 2
    assert not (ceiling(labels) == 2).any()
    assert torch.equal(ceiling(labels), seen)
    labels[labels == 2] = 255
    assert torch.equal(ceiling(labels), seen), "void has no share"
