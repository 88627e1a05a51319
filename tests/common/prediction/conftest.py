"""Runs that are trained and evaluated, for all tests of predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from common.config import reading
from common.config.entries import Config
from common.prediction.stored_run import StoredRun
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.stages import evaluate, prepare, train
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")
METHODS = ["ce", "ddcrf", "crf-1"]


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose runs are trained and evaluated."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("results")
    content = yaml.safe_load(yaml.safe_dump(TINY)) | {"methods": METHODS, "results": str(folder)}
    config = reading.complete(content)
    execution = plan.execution(config)
    prepare.prepare(plan.preparation(config, "digits"))
    for each in plan.runs(config):
        train.train(each.training, execution)
        evaluate.evaluate(each, execution)
    return config


@pytest.fixture(scope="package")
def images(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images as files; those that the panels show are among them."""
    folder = tmp_path_factory.mktemp("images")
    dataset = plan.preparation(config, "digits").dataset
    for name in dataset.names("test"):
        Image.fromarray(dataset.read("test", name)[0]).save(folder / f"{name}.png")
    return folder


def scored(config: Config, method: str) -> TrainedRun:
    return plan.run(config, "digits", MODEL, method, 0)


def stored(config: Config, method: str) -> StoredRun:
    return StoredRun.read(scored(config, method).folder)
