"""Results of which a test may damage a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from common.config import reading
from common.config.entries import Config
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.records import Metrics
from common.stages import controls, evaluate, prepare, train
from tests.common.damage.contents import METHODS, MODEL
from tests.conftest import TINY
from tests.synthetic import cost_of


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose runs are all trained, scored and measured."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    config = reading.complete(TINY | {"methods": METHODS, "results": str(folder)})
    execution = plan.execution(config)
    prepare.prepare(plan.preparation(config, "digits"))
    for run in plan.runs(config):
        train.train(run.training, execution)
        evaluate.evaluate(run, execution)
        facts = Metrics.read(run).trained
        cost_of(run, state_sha256=facts.state_sha256).write(run.cost)
    controls.score(plan.controls(config, "digits", MODEL))
    return config


@pytest.fixture
def config(finished: Config, tmp_path: Path) -> Config:
    """The same with a copy of its results, which a test may damage."""
    shutil.copytree(finished["results"], tmp_path / "results")
    return finished | {"results": str(tmp_path / "results")}


@pytest.fixture
def benchmark(config: Config) -> Benchmark:
    return plan.benchmark(config)
