"""Where runs are, from the files that they write."""

from __future__ import annotations

import json
import os
import time

import pytest

from common import config as configuration
from common import runs, status
from common.config import Config
from common.files import write_json

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: dict) -> Config:
    return configuration.complete(tiny | {"methods": ["ce", "rmi", "crf-1"], "seeds": [0, 1]})


def states(config: Config) -> dict[tuple[str, int], str]:
    table = status.status(config)
    return dict(zip(zip(table["method"], table["seed"]), table["state"]))


def log(training: runs.Training, *iterations: int, rest: str = "") -> None:
    training.folder.mkdir(parents=True, exist_ok=True)
    lines = [{"iteration": i, "seconds": 10.0 * i, "images_per_second": 0.2, "loss": 1.0} for i in iterations]
    training.log.write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


def test_from_waiting_to_done(config: Config) -> None:
    first, second = (runs.run(config, "digits", MODEL, "ce", seed) for seed in (0, 1))
    assert set(states(config).values()) == {"waiting"}
    log(first.training, 1, 2, rest='{"iteration": 3, "sec')
    row = status.status(config).iloc[0]
    assert (row["state"], row["iteration"], row["iterations"]) == ("training", 2, 4)
    assert row["iterations_per_s"] == pytest.approx(0.1) and row["seconds_left"] == pytest.approx(20)
    long_ago = time.time() - 1000
    os.utime(first.training.log, (long_ago, long_ago))
    assert states(config)["ce", 0] == "interrupted"
    first.training.file.write_bytes(b"")
    assert states(config)["ce", 0] == states(config)["crf-1", 0] == "trained"
    first.folder.mkdir(parents=True)
    first.metrics.write_text("{}")
    assert states(config)["ce", 0] == "evaluated"
    first.cost.write_text("{}")
    assert states(config)["ce", 0] == "done"
    write_json(second.training.folder / "error.json", {"error": "the loss is nan"})
    assert states(config)["ce", 1] == "failed"
    text = status.report(status.status(config))
    assert "the loss is nan" in text and "uses the model of ce" in text
    assert text.splitlines()[-1] == "2 failed, 2 waiting, 1 done, 1 trained"


def test_a_new_try_of_a_failed_training_is_training(config: Config) -> None:
    run = runs.run(config, "digits", MODEL, "rmi", 0)
    failure = run.training.folder / "error.json"
    write_json(failure, {"error": "the machine failed"})
    past = time.time() - 60
    os.utime(failure, (past, past))
    log(run.training, 1)
    assert states(config)["rmi", 0] == "training"
    write_json(failure, {"error": "the loss is nan"})
    assert states(config)["rmi", 0] == "failed", "at once, though its log is young"


def test_a_failed_measurement_is_a_failure(config: Config) -> None:
    run = runs.run(config, "digits", MODEL, "ce", 0)
    run.folder.mkdir(parents=True)
    run.metrics.write_text("{}")
    write_json(run.folder / "error.json", {"error": "no memory"})
    assert states(config)["ce", 0] == "failed"
