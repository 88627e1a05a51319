"""The estimate before the start, against what is then measured."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from common import phases
from common.config import reading
from common.config.entries import Config
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.runs.records import Cost
from common.stages import estimate, measure, prepare, train
from common.timing import estimates

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(estimates, "REPEATS", 1)
    monkeypatch.setattr(phases, "process_began", lambda: time.time() - 2)
    tiny |= {"methods": ["ce", "crf-1", "rmi+crf"], "seeds": [0, 1]}
    tiny["execution"] |= {"validate_every": 3, "validate_images": 1}  # after 3 and 4 iterations
    tiny["method_options"]["rmi+crf"] = {"module": "densecrf", "trained_as": "rmi", "iterations": 1}
    tiny["method_options"]["rmi"] = {"pool_size": 1, "radius": 2}
    config = reading.complete(tiny)
    prepare.prepare(plan.preparation(config, "digits"))
    return config


def estimated(config: Config) -> pd.DataFrame:
    return estimate.estimate(plan.benchmark(config)).set_index("method")


def test_what_is_shared_or_done_is_counted_once(config: Config) -> None:
    table = estimated(config)
    assert list(table.index) == ["ce", "crf-1", "rmi+crf"]
    assert list(table["runs"]) == [2, 2, 2] and list(table["to_score"]) == [2, 2, 2]
    assert list(table["to_measure"]) == [1, 1, 1], "the first seed of each"
    assert list(table["to_train"]) == [2, 0, 2], "the models of ce are used twice, those of rmi by one method"
    line = table.loc["ce"]
    seconds = (4 * line["step_ms"] + 2 * line["image_ms"]) / 1000 + line["job_seconds"]
    assert line["job_seconds"] == pytest.approx(2, abs=1) and line["training_hours"] == pytest.approx(
        2 * seconds / 3600
    )
    assert (table["image_ms"] > 0).all()
    assert table["note"].eq("").all() and table["gpu_memory"].map(math.isnan).all()
    training = plan.training(config, "digits", MODEL, "ce", 0)
    train.train(training, plan.execution(config))
    size = training.file.stat().st_size
    again = estimated(config)
    assert list(again["to_train"]) == [1, 0, 2]
    kept = 2 * 1e6 * config["execution"]["labels_mb"]
    assert line["disk"] - kept == pytest.approx(2 * size, rel=0.1)
    text = estimate.summary(again.reset_index(), "a processor")
    assert "| rmi+crf  |" in text and "hours of a job's cores on a processor" in text
    done = again.reset_index().assign(to_train=0, to_score=0, to_measure=0)
    assert estimate.summary(done, "a processor").endswith("Nothing is left to train, score or measure.")
    folder = Path(config["results"])
    assert list(pd.read_csv(folder / "estimate.csv")["method"]) == ["ce", "crf-1", "rmi+crf"]
    assert (folder / "estimate.md").read_text().startswith("# What this benchmark will take")


def test_measured_runs_count_and_what_cannot_be_measured_is_said(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plan.run(config, "digits", MODEL, "ce", 1)
    device = "this processor"
    monkeypatch.setattr("common.machine.devices.describe", lambda _: device)
    cost = measured(config, run)
    times = {"training_step_ms": 3_600_000.0, "training_timings": [3_600_000.0]}
    inferences = cost.inference_timings | {"latency": [10.0]}
    cost = replace(cost, **times, latency_ms=10.0, inference_timings=inferences)
    assert cost.device == device

    def refuses(*_: object) -> None:
        raise UserError("the method refuses its input")

    monkeypatch.setattr(estimates, "training_cost", refuses)
    replace(cost, training_batch=1000).write(run.cost)
    assert estimated(config).loc["ce", "source"] == "failed", "of another batch"
    cost.write(run.cost)
    table = estimated(config)
    assert table.loc["ce", "source"] == "measured runs"
    assert table.loc["ce", "training_hours"] == pytest.approx(4, rel=0.01), "one of two is trained"
    assert table.loc["crf-1", "note"] == "the method refuses its input"
    text = estimate.summary(table.reset_index(), device)
    assert "| failed" in text and "that failed left out" in text
    text = estimate.summary(table.reset_index().assign(gpus=4), device)
    assert "the longest single training takes 1.00 hours" in text, "on four GPUs at once"
    run.cost.write_text("{}")
    assert estimated(config).loc["ce", "source"] == "failed", "a damaged file is no measured cost"
    assert f"not used: {run.cost} cannot be read" in capsys.readouterr().err


def measured(config: Config, run: TrainedRun) -> Cost:
    """What a run costs."""
    train.train(run.training, plan.execution(config))
    measure.measure(run, plan.execution(config))
    return Cost.read(run)
