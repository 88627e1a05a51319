"""The estimate before the start, against what is then measured."""

from __future__ import annotations

import math

import pytest

from common import config as configuration
from common import estimate, prepare, runs, train
from common.config import Config
from common.files import write_json

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(estimate, "REPEATS", 1)
    tiny |= {"methods": ["ce", "crf-1", "rmi+crf"], "seeds": [0, 1]}
    tiny["method_options"]["rmi+crf"] = {"module": "densecrf", "trained_as": "rmi", "iterations": 1}
    tiny["method_options"]["rmi"] = {"pool_size": 1, "radius": 2}
    config = configuration.complete(tiny)
    prepare.prepare(config, "digits")
    return config


def test_what_is_shared_or_done_is_counted_once(config: Config) -> None:
    table = estimate.estimate(config).set_index("method")
    assert list(table.index) == ["ce", "crf-1", "rmi+crf"]
    assert list(table["runs"]) == [2, 2, 2] and list(table["to_score"]) == [2, 2, 2]
    assert list(table["to_train"]) == [2, 0, 2], "the models of ce are used twice, those of rmi by one method"
    line = table.loc["ce"]
    assert line["training_hours"] == pytest.approx(2 * 4 * line["step_ms"] / 3.6e6)
    assert (table["image_ms"] > 0).all()
    assert table["note"].eq("").all() and table["gpu_memory"].map(math.isnan).all()
    training = runs.training(config, "digits", MODEL, "ce", 0)
    train.train(config, training)
    size = training.file.stat().st_size
    again = estimate.estimate(config).set_index("method")
    assert list(again["to_train"]) == [1, 0, 2]
    kept = 2 * 1e6 * config["execution"]["labels_mb"]
    assert line["disk"] - kept == pytest.approx(2 * size, rel=0.1)
    text = estimate.report(again.reset_index(), "a processor")
    assert "| rmi+crf  |" in text and "hours of a job's cores on a processor" in text


def test_measured_runs_count_and_what_cannot_be_measured_is_said(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.run(config, "digits", MODEL, "ce", 1)
    device = "this processor"
    monkeypatch.setattr("common.devices.describe", lambda _: device)
    cost = {"training_step_ms": 3_600_000.0, "latency_ms": 10.0, "training_peak_memory": None}
    training = config["training"]
    cost |= {
        "training_batch": training["batch_size"] * training["accumulate"],
        "provenance": {"device": device},
    }

    def refuses(*_: object) -> None:
        raise estimate.UserError("the method refuses its input")

    monkeypatch.setattr(estimate, "training_cost", refuses)
    write_json(run.cost, cost | {"training_batch": 1000})
    assert estimate.estimate(config).set_index("method").loc["ce", "source"] == "failed", "of another batch"
    write_json(run.cost, cost)
    table = estimate.estimate(config).set_index("method")
    assert table.loc["ce", "source"] == "measured runs"
    assert table.loc["ce", "training_hours"] == pytest.approx(2 * 4)
    assert table.loc["crf-1", "note"] == "the method refuses its input"
    text = estimate.report(table.reset_index(), device)
    assert "| failed" in text and "that failed left out" in text
    text = estimate.report(table.reset_index().assign(gpus=4), device)
    assert "the longest single training takes 1.00 hours" in text, "on four GPUs at once"
