"""Where runs are, from the files that they write."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from common.config import reading
from common.config.entries import Config
from common.failures import Failure
from common.files import write_record
from common.runs import plan, recipes
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.stages import status
from common.stages.status import Progress
from tests.conftest import ROOT, raise_recipe, run
from tests.synthetic import cost_of, plain_counts, write_log, write_scores

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: dict) -> Config:
    return reading.complete(tiny | {"methods": ["ce", "rmi", "crf-1"], "seeds": [0, 1]})


def progress(config: Config) -> list[Progress]:
    return status.status(plan.benchmark(config))


def states(config: Config) -> dict[tuple[str, int], str]:
    return {(one.run.method, one.run.seed): one.state for one in progress(config)}


def trained_run(config: Config, method: str, seed: int) -> TrainedRun:
    job = plan.run(config, "digits", MODEL, method, seed)
    assert isinstance(job, TrainedRun)
    return job


def failure(sentence: str) -> Failure:
    return Failure(sentence, "crash", "train", "2026-11-01T12:00:00+00:00")


def test_from_waiting_to_done(config: Config) -> None:
    first, second = (trained_run(config, "ce", seed) for seed in (0, 1))
    assert set(states(config).values()) == {"waiting"}
    write_log(first.training, range(1, 3), rest='{"iteration": 3, "sec', images_per_second=0.2)
    training = progress(config)[0]
    assert (training.state, training.iteration, training.iterations) == ("training", 2, 4)
    assert training.iterations_per_s == pytest.approx(0.1) and training.seconds_left == pytest.approx(20)
    long_ago = time.time() - 1000
    os.utime(first.training.log, (long_ago, long_ago))
    assert states(config)["ce", 0] == "interrupted"
    first.training.file.write_bytes(b"")
    assert states(config)["ce", 0] == states(config)["crf-1", 0] == "trained"
    write_scores(first, plain_counts(first, 0.6))
    assert states(config)["ce", 0] == "scored" and progress(config)[0].note == "not measured yet"
    cost_of(first).write(first.cost)
    assert states(config)["ce", 0] == "done"
    write_record(second.training.error, failure("the loss is nan"))
    assert states(config)["ce", 1] == "failed"
    text = status.status_text(progress(config))
    assert "the loss is nan" in text and "uses the model of ce" in text
    assert text.splitlines()[-1] == "2 failed, 2 waiting, 1 done, 1 trained"


def test_a_new_try_of_a_failed_training_is_training(config: Config) -> None:
    training = trained_run(config, "rmi", 0).training
    write_record(training.error, failure("the machine failed"))
    past = time.time() - 60
    os.utime(training.error, (past, past))
    write_log(training, range(1, 2))
    assert states(config)["rmi", 0] == "training"
    write_record(training.error, failure("the loss is nan"))
    assert states(config)["rmi", 0] == "failed", "at once, though its log is young"


def test_what_was_measured_by_an_older_recipe_is_to_be_measured(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trained_run(config, "crf-1", 0)
    cost_of(job).write(job.cost)
    write_scores(job, plain_counts(job, 0.6))
    job.training.folder.mkdir(parents=True)
    job.training.file.touch()
    assert states(config)["crf-1", 0] == "done"
    number = recipes.MEASURING.number
    raise_recipe(monkeypatch, "MEASURING")
    (one,) = (one for one in progress(config) if one.run.folder == job.folder)
    assert (one.state, one.note) == (
        "scored",
        f"uses the model of ce; measured by recipe {number}, not yet by this one",
    )


def test_a_failed_measurement_is_a_failure(config: Config) -> None:
    job = trained_run(config, "ce", 0)
    write_scores(job, plain_counts(job, 0.6))
    write_record(job.error, failure("no memory"))
    assert states(config)["ce", 0] == "failed"


def test_it_is_watched_until_all_is_done(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def done(benchmark: Benchmark) -> list[Progress]:
        asked.append(benchmark)
        return [Progress(run, "done" if len(asked) > 2 else "training") for run in benchmark.runs]

    monkeypatch.setattr(status, "status", done)
    monkeypatch.setattr(status.time, "sleep", lambda seconds: None)
    status.watch(plan.benchmark(config), 10)
    assert len(asked) == 3 and capsys.readouterr().out.count("6 training") == 2


def test_predictions_of_another_system(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "theirs" / "test"
    folder.mkdir(parents=True)
    (folder / "test-00000.png").write_bytes(b"a PNG")
    entry = {"theirs": {"predictions": str(tmp_path / "theirs" / "{split}")}}
    config |= {"methods": ["theirs"], "method_options": config["method_options"] | entry}
    (one,) = progress(config)
    assert (one.state, one.iterations, one.note) == ("waiting", 0, "read from a folder")
    write_record(one.run.error, failure("a PNG is missing"))
    (one,) = progress(config)
    assert (one.state, one.note) == ("failed", "a PNG is missing")
    write_scores(one.run, plain_counts(one.run, 0.6))
    assert states(config) == {("theirs", 0): "done"}


def test_it_asks_for_no_heavy_package(tiny: dict, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny))
    result = run("common", "status", "--configfile", str(file), cwd=ROOT)
    assert "1 waiting" in result.stdout
    listed = "import sys, common.stages.status; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", listed], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "matplotlib", "pandas", "scipy", "sklearn"} & {*modules.stdout.split()}
