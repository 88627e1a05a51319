"""The labellings that bracket every table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import reading
from common.config.settings import typed
from common.datasets.manifest import Manifest, SplitManifest
from common.files import read_json
from common.networks.options import ModelOptions
from common.provenance import Provenance
from common.runs import plan
from common.runs.jobs import Control
from common.runs.records import ControlMetrics
from common.scoring.controls import Ceiling, majority
from common.scoring.counts import SplitCounts
from common.stages import controls, prepare
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Control]:
    config = reading.complete(TINY | {"results": str(tmp_path_factory.mktemp("results"))})
    jobs = plan.controls(config, "digits", MODEL)
    prepare.prepare(jobs[0].data)
    controls.score(jobs)
    return {control.name: control for control in jobs}


def options(model: str) -> ModelOptions:
    selection = TINY | {"models": [model], "model_options": {model: {"weights": "none"}}}
    return typed(ModelOptions, reading.complete(selection)["model_options"][model])


def tiny_options() -> ModelOptions:
    return typed(ModelOptions, reading.complete(TINY)["model_options"][MODEL])


def manifest(**pixels: dict[str, int]) -> Manifest:
    """A manifest of which only the pixels of every class are known, by split."""
    splits = {
        name: SplitManifest([], [], counts, {}, 0, (0, 0, 0), (0, 0, 0)) for name, counts in pixels.items()
    }
    provenance = Provenance("2026-11-01T12:00:00+00:00", None, {}, "a CPU")
    return Manifest("digits", {}, "d", ["x", "y"], [], 255, "c", splits, provenance, 0.0)


def test_their_scores_come_from_counts_like_those_of_runs(written: dict[str, Control]) -> None:
    for control in written.values():
        scores, counts = ControlMetrics.read(control), SplitCounts.read(control.per_image)
        assert counts.names.tolist() == [f"test/test-{i:05d}" for i in range(4)]
        assert counts.calibration is None, "there are no probabilities"
        assert scores.pixel_accuracy == pytest.approx(np.trace(counts.total) / counts.total.sum())
        assert scores.control == control.name
        assert "ece" not in read_json(control.metrics)


def test_the_majority_is_one_class(written: dict[str, Control]) -> None:
    counts = SplitCounts.read(written["majority"].per_image)
    assert (counts.confusion.sum(axis=(0, 1)) > 0).sum() == 1
    assert counts.contour[:, :2].sum() == 0
    two = manifest(a={"x": 5, "y": 4}, b={"x": 1, "y": 3})
    labels = torch.zeros(2, 3, dtype=torch.uint8)
    assert majority(two, ["a"])(labels).unique().tolist() == [0]
    assert majority(two, ["a", "b"])(labels).unique().tolist() == [1]


def test_the_ceiling_is_far_above_the_majority_and_below_the_truth(written: dict[str, Control]) -> None:
    low, high = (ControlMetrics.read(written[name]).miou for name in ("majority", "ceiling"))
    assert low < 0.3 < high < 1


def test_the_ceiling_is_not_shifted_where_corners_are_aligned() -> None:
    aligned = replace(tiny_options(), output_stride=16, input_multiple=16, align_corners=True)
    ceiling = Ceiling("deeplabv3-test_resnet", aligned, 3)
    labels = torch.zeros(129, 145, dtype=torch.uint8)
    labels[40:, :] = 1  # 40 and 72 lie in the middle between two cells
    labels[:, 72:] = 2
    wrong = ceiling(labels) != labels
    assert wrong.float().mean() < 0.02, "but in the very middle and at the corner of three regions"


@pytest.mark.parametrize(("corners", "multiple"), [(False, 8), (True, 8), (True, 16), (True, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_ceilings_edges_lie_on_average_where_those_of_the_truth_do(
    corners: bool, multiple: int, axis: int
) -> None:
    """However the cells lie on the pixels; of edges at every place on two cells, to both sides."""
    grid = {"output_stride": 8, "input_multiple": multiple, "align_corners": corners}
    ceiling = Ceiling("deeplabv3-test_resnet", replace(tiny_options(), **grid), 2)
    moved = []
    for edge in range(24, 40):
        for labels in (torch.arange(65) >= edge, torch.arange(65) < edge):
            truth = labels.to(torch.uint8).expand(49, 65)
            seen = ceiling(truth.T).T if axis == 0 else ceiling(truth)
            (column,) = (seen[20, 1:] != seen[20, :-1]).nonzero().tolist()
            moved.append(column[0] + 1 - edge)
    assert abs(np.mean(moved)) <= 0.03 and np.abs(moved).max() <= 1


@pytest.mark.parametrize("corners", [False, True])
def test_ceilings_of_other_grids_are_other_results(corners: bool) -> None:
    """How far images are padded is all the same, but over those that are not cells are stretched."""
    truth = torch.from_numpy(np.random.default_rng(0).integers(0, 11, (5, 7))).to(torch.uint8)
    truth = truth.repeat_interleave(10, 0).repeat_interleave(10, 1)
    ceilings, digests = [], []
    for multiple in (1, 8, 16):
        grid = {"input_multiple": multiple, "align_corners": corners}
        changes = {"model_options": {MODEL: TINY["model_options"][MODEL] | grid}}  # type: ignore[index]
        control = plan.controls(reading.complete(TINY | changes), "digits", MODEL)[-1]
        ceilings.append(Ceiling(MODEL, control.model_options, 11)(truth))
        digests.append(control.digest)
    stretched, *padded = ceilings
    assert torch.equal(*padded) and digests[1] == digests[2]
    assert not torch.equal(stretched, padded[0]) and digests[0] != digests[1]


@pytest.mark.parametrize("model", ["segformer-mit_b0"])
def test_networks_that_look_at_numbers_have_a_ceiling_too(model: str) -> None:
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    assert torch.equal(Ceiling(model, options(model), 3)(labels), labels)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_ceiling_sees_cells(stride: int) -> None:
    """A region of whole cells is seen as it is, but for its corners; a thin line of fewer pixels vanishes."""
    ceiling = Ceiling("deeplabv3-test_resnet", replace(tiny_options(), output_stride=stride), 3)
    labels = torch.zeros(4 * stride + 3, 6 * stride, dtype=torch.uint8)
    labels[:, 3 * stride :] = 1
    expected = ceiling(labels)
    assert expected.shape == labels.shape and torch.equal(expected, labels)
    labels[5, :] = 2
    assert not (ceiling(labels) == 2).any()
    assert torch.equal(ceiling(labels), expected)
    labels[labels == 2] = 255
    assert torch.equal(ceiling(labels), expected), "void has no share"
