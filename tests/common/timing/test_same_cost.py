"""Settings with which others cost as much as one entry does: from times in turns, to numbers in a file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from common.config import reading
from common.config.entries import Config
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import TrainedRun, Training
from common.stages import estimate, prepare
from common.timing import same_cost

MILLISECONDS = {"ce": 10.0, "bce": 20.0, "fine": 5.0, "rmi": 25.0}
"""Of a made-up step of every entry."""


@pytest.fixture
def config(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    def stepper(training: Training, *_: object) -> SimpleNamespace:
        return SimpleNamespace(step=lambda: MILLISECONDS[training.method])

    monkeypatch.setattr(same_cost, "training_stepper", stepper)
    monkeypatch.setattr(same_cost, "LEAST_SECONDS", 0)
    tiny["method_options"]["fine"] = {"module": "bce", "start": "ce", "training": {"iterations": 6}}
    tiny |= {"methods": ["ce", "bce", "fine", "rmi", "crf-1"], "tables": {"baseline": "ce"}}
    return reading.complete(tiny)


def settings(config: Config, reference: str) -> dict[str, dict]:
    """What all others are to be given, by their names."""
    benchmark = plan.benchmark(config)
    runs = {run.method: run for run in benchmark.runs if isinstance(run, TrainedRun)}
    equals = same_cost.equal_training(
        runs[reference], runs.values(), benchmark.execution, torch.device("cpu")
    )
    return {equal.method: equal.settings for equal in equals}


def test_others_are_trained_for_as_long(config: Config) -> None:
    assert settings(config, "rmi") == {  # 4 steps of 25 ms
        "ce": {"iterations": 10},
        "bce": {"iterations": 5},
        "fine": {},  # it starts from ce, which has all of the time
    }
    alone = config | {"methods": ["fine", "rmi"]}
    assert settings(alone, "rmi") == {"fine": {"iterations": 12}}, "beside the 40 ms that it starts from"


@pytest.mark.parametrize("methods", [["ce", "bce", "fine", "rmi"], ["bce", "fine", "rmi"]])
def test_what_is_laid_over_costs_as_much(config: Config, methods: list[str]) -> None:
    """All that is trained for an entry, when everything in the file is laid over."""
    config = config | {"methods": methods}
    given = {name: one for name, one in settings(config, "rmi").items() if one}
    over = {name: {"per_dataset": {"digits": {"training": one}}} for name, one in given.items()}
    laid = reading.complete(reading.merge(config, {"method_options": over}))
    for run in plan.benchmark(laid).runs:
        assert isinstance(run, TrainedRun)
        if run.method in given:
            spent = sum(one.settings.iterations * MILLISECONDS[one.method] for one in run.trainings)
            assert spent == 100, run.method


def test_what_an_entry_comes_from_counts_and_is_left_alone(config: Config) -> None:
    assert settings(config, "fine") == {"bce": {"iterations": 4}, "rmi": {"iterations": 3}}  # of 40 + 30 ms
    assert "ce" not in settings(config, "crf-1"), "it is refined"


def test_what_there_is_no_time_for_is_said(config: Config) -> None:
    assert settings(config, "ce")["fine"] == {}, "ce itself takes all of it"


def test_the_file_is_a_configuration_of_plain_numbers(config: Config) -> None:
    run = plan.run(config, "digits", config["models"][0], "ce", 0)
    prepare.prepare(run.data)
    (file,) = estimate.same_cost(plan.benchmark(config), "rmi", "training")
    text = file.read_text()
    assert "as long as rmi: rmi 25.00 ms a step, bce 20.00 ms a step" in text
    laid = reading.complete(reading.merge(config, yaml.safe_load(text)))
    again = plan.run(laid, "digits", config["models"][0], "bce", 0)
    assert isinstance(again, TrainedRun) and again.training.settings.iterations == 5
    assert again.kind == "method"


def test_views_are_bought_as_long_as_they_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_cost, "_taker", lambda pipeline, *_: lambda: float(len(pipeline.views)))
    run = plan.run(config, "digits", config["models"][0], "ce", 0)
    prepare.prepare(run.data)
    config = reading.complete(config | {"methods": ["ce", "slow"], "method_options": {"slow": {
        "module": "ce", "evaluation": {"scales": [0.75, 1.0, 1.25], "flip": True}
    }}})  # fmt: skip
    (file,) = estimate.same_cost(plan.benchmark(config), "slow", "latency")
    over = yaml.safe_load(file.read_text())["method_options"]["ce"]["per_dataset"]["digits"]["evaluation"]
    assert over == {"scales": [0.5, 0.75, 1, 1.25, 1.5, 1.75], "flip": False}, "six views, as those of slow"


def test_an_unknown_entry_is_one_sentence(config: Config) -> None:
    with pytest.raises(UserError, match="--same-cost-as: 'rmii' is not among the methods .* ce, bce, fine"):
        estimate.same_cost(plan.benchmark(config), "rmii", "training")
    assert not (Path(config["results"]) / "same-cost").exists()
