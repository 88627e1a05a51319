"""What a run costs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from common import config as configuration
from common import measure, runs, train
from common.config import Config
from common.prepare import prepare
from tests.conftest import TINY


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What `cost.json` says of each method."""
    folder = str(tmp_path_factory.mktemp("results"))
    config = configuration.complete(TINY | {"methods": ["ce", "crf-1", "ddcrf"], "results": folder})
    prepare(config, "digits")
    return {run.method: measured(config, run) for run in runs.runs(config)}


def measured(config: Config, run: runs.Run) -> dict:
    if not run.training.file.exists():
        train.train(config, run.training)
    measure.measure(config, run)
    return json.loads(run.cost.read_text())


def test_latency_is_all_of_its_parts(costs: dict[str, dict]) -> None:
    for cost in costs.values():
        assert cost["latency_ms"] >= max(cost[f"{part}_ms"] for part in ("network", "structure", "refine"))
        for part in ("network", "structure", "refine", "latency"):
            assert cost[f"{part}_p95_ms"] >= cost[f"{part}_ms"] >= 0
    assert costs["crf-1"]["refine_ms"] > 10 * costs["ce"]["refine_ms"]
    assert costs["ddcrf"]["structure_ms"] > 10 * costs["ce"]["structure_ms"]


def test_throughput_is_that_of_the_best_batch(costs: dict[str, dict]) -> None:
    for cost in costs.values():
        assert cost["throughput"] > 0 and cost["throughput_batch"] in (1, 2, 4, 8)
        expected = 1000 * cost["training_batch"] / cost["training_step_ms"]
        assert cost["training_images_per_second"] == pytest.approx(expected)
        assert cost["training_peak_memory"] is None, "on a CPU it is not known"


def test_multiply_adds_are_those_of_the_network(costs: dict[str, dict]) -> None:
    assert costs["ce"]["multiply_adds"] == costs["crf-1"]["multiply_adds"] > 1e6
    assert costs["ce"]["uncounted_operations"] == []
    assert costs["ddcrf"]["multiply_adds"] > costs["ce"]["multiply_adds"], "its convolutions count"
    assert costs["ddcrf"]["uncounted_operations"] == ["structseg::dual_decomposition"]


def test_a_convolution_s_multiply_adds_are_counted_by_hand() -> None:
    class Predictor:
        layer = nn.Conv2d(3, 8, 3, padding=1)

        def unrefined(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image)

    found = measure._operations(Predictor(), torch.zeros(1, 3, 10, 12))
    assert found == {"multiply_adds": 10 * 12 * 8 * 3 * 9, "uncounted_operations": []}


def test_the_best_batch_is_looked_for_until_it_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Predictor:
        device = torch.device("cpu")

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return images

        unrefined = __call__

    sizes: list[int] = []
    seconds = {1: 1.0, 2: 1.5, 4: 3.0, 8: 6.0}
    monkeypatch.setattr(measure.devices, "seconds", lambda function, _: (function(), seconds[sizes[-1]])[1])
    found = measure._whole_batches(Predictor(), torch.zeros(1, 3, 6, 7))
    assert (found["throughput"], found["throughput_batch"]) == (pytest.approx(2 / 1.5), 2)
    assert max(sizes) == 4 and found["multiply_adds_size"] == "7x6"
