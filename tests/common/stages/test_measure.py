"""What a run costs."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.config import reading
from common.errors import UserError
from common.machine import devices
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.runs.records import Cost
from common.stages import measure, prepare, train
from common.timing import inference
from common.timing.training import batch_per_gpu
from tests import synthetic
from tests.conftest import TINY


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """What `cost-<n>.json` says of each method."""
    folder = str(tmp_path_factory.mktemp("results"))
    config = reading.complete(TINY | {"methods": ["ce", "crf-1", "ddcrf"], "results": folder})
    execution, runs = plan.execution(config), plan.runs(config)
    prepare.prepare(runs[0].data)
    for run in runs:
        train.train(run.training, execution)
        measure.measure(run, execution)
    return {run.method: Cost.read(run) for run in runs}


def test_latency_is_all_of_its_parts(costs: dict[str, Cost]) -> None:
    for cost in costs.values():
        assert cost.latency_ms >= max(
            getattr(cost, f"{part}_ms") for part in ("network", "structure", "refine")
        )
        for part in ("network", "structure", "refine", "latency"):
            assert getattr(cost, f"{part}_p95_ms") >= getattr(cost, f"{part}_ms") >= 0
    assert costs["crf-1"].refine_ms > 10 * costs["ce"].refine_ms
    assert costs["ddcrf"].structure_ms > 10 * costs["ce"].structure_ms


def test_throughput_is_that_of_the_best_batch(costs: dict[str, Cost]) -> None:
    for cost in costs.values():
        assert cost.throughput > 0 and cost.throughput_batch in (1, 2, 4, 8)
        expected = 1000 * cost.training_batch / cost.training_step_ms
        assert cost.training_images_per_second == pytest.approx(expected)
        assert cost.training_peak_memory is None, "on a CPU it is not known"


def test_multiply_adds_are_those_of_the_network(costs: dict[str, Cost]) -> None:
    assert costs["ce"].multiply_adds == costs["crf-1"].multiply_adds > 1e6
    assert costs["ce"].uncounted_operations == []
    assert costs["ddcrf"].multiply_adds > costs["ce"].multiply_adds, "its convolutions count"
    assert costs["ddcrf"].uncounted_operations == ["structseg::dual_decomposition"]


def test_a_convolution_s_multiply_adds_are_counted_by_hand() -> None:
    class Convolution:
        layer = nn.Conv2d(3, 8, 3, padding=1)

        def unrefined(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image)

    counted = inference.operations(Convolution(), torch.zeros(1, 3, 10, 12))
    assert counted == (10 * 12 * 8 * 3 * 9, [])


def test_the_best_batch_is_looked_for_until_it_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        device = torch.device("cpu")

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return images

        unrefined = __call__

    sizes: list[int] = []
    seconds = {1: 1.0, 2: 1.5, 4: 3.0, 8: 6.0}
    monkeypatch.setattr(devices, "seconds", lambda function, _: (function(), seconds[sizes[-1]])[1])
    cost = inference.batch_cost(Idle(), torch.zeros(1, 3, 6, 7))
    assert (cost.throughput, cost.throughput_batch) == (pytest.approx(2 / 1.5), 2)
    assert max(sizes) == 4 and cost.multiply_adds_size == "7x6"


@pytest.mark.parametrize(("batch", "gpus", "share"), [(8, 1, 8), (8, 4, 2), (3, 2, 2), (1, 1, 1)])
def test_one_gpu_is_timed_with_its_share_of_a_batch(batch: int, gpus: int, share: int) -> None:
    config = reading.complete(TINY)
    (run,) = plan.runs(config)
    execution = replace(plan.execution(config), gpus_per_run=gpus)
    assert batch_per_gpu(replace(run.training.settings, batch_size=batch), execution) == share


def test_all_timings_are_kept(costs: dict[str, Cost]) -> None:
    for cost in costs.values():
        assert {*cost.inference_timings} == {"network", "structure", "refine", "latency"}
        for part, timings in cost.inference_timings.items():
            assert len(timings) == cost.inference_repeats
            assert np.median(timings) == pytest.approx(getattr(cost, f"{part}_ms"), abs=1e-3)
            assert np.percentile(timings, 95) == pytest.approx(getattr(cost, f"{part}_p95_ms"), abs=1e-3)
        assert len(cost.training_timings) == cost.training_repeats
        assert np.median(cost.training_timings) == pytest.approx(cost.training_step_ms, abs=1e-3)


def test_the_load_of_the_machine_is_kept(costs: dict[str, Cost]) -> None:
    for cost in costs.values():
        assert cost.load.alone and not cost.load.on_gpu and cost.load.gpu_processes is None
        assert 0 < cost.load.own_cores <= cost.load.cores == os.cpu_count()
        assert cost.load.other_cores is not None and 0 <= cost.load.other_cores <= cost.load.cores


def test_times_of_another_machine_are_not_replaced(tmp_path: Path) -> None:
    config = synthetic.make_config(tmp_path)
    run = plan.runs(config)[0]
    assert isinstance(run, TrainedRun)
    synthetic.cost_of(run, provenance=synthetic.provenance(device="a faster CPU, 8 threads")).write(run.cost)
    before = run.cost.read_bytes()
    with pytest.raises(
        UserError, match=r"has the times of another machine \(a faster CPU, 8 threads; this is"
    ):
        measure.measure(run, plan.execution(config))
    assert run.cost.read_bytes() == before and not run.error.exists()
    own = re.sub("[0-9]+ threads", "99 threads", devices.describe(torch.device("cpu")))
    synthetic.cost_of(run, provenance=synthetic.provenance(device=own)).write(run.cost)
    with pytest.raises(UserError, match="model.pt is missing"):  # nothing but that is in the way
        measure.measure(run, plan.execution(config))
