"""Digests: what makes a folder another one, and what does not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from common.config import reading
from common.runs import plan, searches
from common.runs.jobs import TrainedRun
from tests.conftest import TINY, raise_recipe

MODEL = "deeplabv3plus-test_resnet"


def digests(change: dict | None = None, method: str = "rmi") -> tuple[str, str]:
    """The digests of the model and the run."""
    config = copy.deepcopy(TINY) | {"methods": [method]}
    for section, content in (change or {}).items():
        config[section] = config.get(section, {}) | content
    run = plan.run(reading.complete(config), "digits", MODEL, method, 0)
    return run.training.digest, run.digest


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"iterations": 5}},
        {"training": {"per_dataset": {"digits": {"batch_size": 3}}}},
        {"dataset_options": {"digits": {"size": 50}}},
        {"model_options": {MODEL: {"weights": "none", "output_stride": 16}}},
        {"method_options": {"rmi": {"radius": 2}}},
    ],
    ids=str,
)
def test_what_matters_changes_the_digests(change: dict) -> None:
    before, after = digests(), digests(change)
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    "change",
    [
        {"execution": {"workers": 3, "log_every": 7}},
        {"resources": {"cpus": 7}},
        {"tables": {"baseline": "rmi"}},
        {"training": {"per_dataset": {"camvid": {"batch_size": 3}}}},
        {"method_options": {"rmi": {"radius": 3, "weight": 0.5}}},
        {"training": {"head_multiplier": 1, "scale": [1.0, 1.0]}},
        {"method_options": {"crf-9": {"module": "densecrf"}}},
    ],
    ids=str,
)
def test_what_does_not_matter_does_not(change: dict) -> None:
    assert digests() == digests(change)


def test_evaluation_settings_belong_to_the_run_alone() -> None:
    before, after = digests(), digests({"evaluation": {"split": "val"}})
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_where_files_lie_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = reading.complete(TINY | {"datasets": ["camvid"]})
    here = plan.preparation(config, "camvid").path
    monkeypatch.setenv("CAMVID_ROOT", "/elsewhere")
    config["dataset_options"]["camvid"] = {"root": "/there"}
    assert plan.preparation(config, "camvid").path == here
    weights = {MODEL: {"weights": "/a/x.pt", "output_stride": 8}}
    elsewhere = {MODEL: {"weights": "/b/x.pt", "output_stride": 8}}
    assert digests({"model_options": weights}) == digests({"model_options": elsewhere})


def test_nothing_is_trained_twice() -> None:
    config = reading.complete(TINY | {"methods": ["ce", "crf-1"], "seeds": [0, 1]})
    runs = plan.runs(config)
    assert len(runs) == 4
    assert len({run.training.folder for run in runs}) == 2
    assert len({run.folder for run in runs}) == 4


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("TRAINING", {"training", "run", "tuning"}),
        ("SCORING", {"run", "read run", "control", "tuning"}),
        ("MEASURING", {"cost"}),
    ],
)
def test_another_recipe_is_another_result(
    name: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs" / "test"
    folder.mkdir(parents=True)
    (folder / "test-00000.png").write_bytes(b"a PNG")
    entry = {"theirs": {"predictions": str(tmp_path / "theirs" / "{split}")}}
    config = reading.complete(TINY | {"method_options": TINY["method_options"] | entry})
    config["tuning"] |= {"methods": {"crf-1": {"iterations": [2]}}}

    def places() -> dict[str, Path]:
        run = plan.run(config, "digits", MODEL, "ce", 0)
        assert isinstance(run, TrainedRun)
        return {
            "dataset": run.data.path,
            "training": run.training.folder,
            "run": run.folder,
            "cost": run.cost.relative_to(run.folder),
            "read run": plan.run(config, "digits", MODEL, "theirs", 0).folder,
            "control": plan.controls(config, "digits", MODEL)[0].folder,
            "tuning": searches.search(config, "digits", MODEL, "crf-1").folder,
        }

    before = places()
    raise_recipe(monkeypatch, name)
    assert {key for key, place in places().items() if place != before[key]} == changed


def test_tables_are_of_the_costs_that_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    config = reading.complete(TINY)
    before = plan.benchmark(config).outputs
    raise_recipe(monkeypatch, "MEASURING")
    after = plan.benchmark(config).outputs
    assert before.stamp != after.stamp and before.page_stamp != after.page_stamp
