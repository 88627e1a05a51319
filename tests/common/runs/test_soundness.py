"""Trained models that are gone are noticed, without reading anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import reading
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.runs.soundness import lost_models
from common.stages import status, train
from common.training import finished_model
from tests.synthetic import plain_counts, write_scores

Runs = dict[str, TrainedRun]


@pytest.fixture
def benchmark(tiny: dict) -> Benchmark:
    return plan.benchmark(reading.complete(tiny | {"methods": ["ce", "rmi", "crf-1"]}))


@pytest.fixture
def runs(benchmark: Benchmark) -> Runs:
    """Scored runs with files in the place of models, which nobody reads here."""
    runs = {run.method: run for run in benchmark.runs if isinstance(run, TrainedRun)}
    for run in runs.values():
        write_scores(run, plain_counts(run, 0.6))
        run.training.second_name.parent.mkdir(parents=True, exist_ok=True)
        for path in (run.training.file, run.training.second_name):
            path.touch()
    return runs


def test_a_model_that_is_gone_is_named_once(benchmark: Benchmark, runs: Runs) -> None:
    assert [*lost_models(benchmark.runs)] == []
    runs["ce"].training.file.unlink()
    assert [*lost_models(benchmark.runs)] == [], "its second name is there"
    runs["ce"].training.second_name.unlink()
    (sentence,) = lost_models(benchmark.runs)
    assert sentence.startswith("1 trained model is gone that results were made with (")
    assert sentence.count(str(runs["ce"].training.folder)) == 1, "ce and crf-1 share it"
    for path in (runs["rmi"].training.file, runs["rmi"].training.second_name):
        path.unlink()
    (sentence,) = lost_models(benchmark.runs)
    assert sentence.startswith("2 trained models are gone") and "they are trained again" in sentence
    for run in runs.values():
        run.metrics.unlink()
    assert [*lost_models(benchmark.runs)] == [], "nothing was made with them"


def test_status_says_that_a_model_is_gone(benchmark: Benchmark, runs: Runs) -> None:
    for path in (runs["ce"].training.file, runs["ce"].training.second_name):
        path.unlink()
    notes = {progress.run.method: progress.note for progress in status.status(benchmark)}
    gone = "its model is gone: `snakemake` trains it again"
    assert (
        gone in notes["ce"] and f"uses the model of ce; {gone}" in notes["crf-1"] and gone not in notes["rmi"]
    )


def test_a_model_that_is_there_is_left_and_that_is_said(
    benchmark: Benchmark, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    training = runs["ce"].training
    train.train(training, benchmark.execution)
    assert (
        f"nothing was trained: to train it again, delete the folder {training.folder}"
        in capsys.readouterr().out
    )
    assert finished_model.again(training).endswith(str(Path(training.folder)))
