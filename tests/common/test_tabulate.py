"""Tables from run files: what they say, and what they say when something is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common import config as configuration
from common import runs, tabulate
from common.config import Config
from common.files import write_json
from common.statistics import mean_and_deviation, paired_differences
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"
CLASSES = ["background", "one"]


def provenance(**changes: object) -> dict:
    return {"commit": "a" * 40, "packages": {"torch": "2.14"}, "device": "a CPU"} | changes


def write_run(run: runs.Run, miou: float, refine: float = 0.0, **changes: object) -> None:
    write_json(
        run.metrics,
        {
            "dataset": run.dataset,
            "miou": miou,
            "pixel_accuracy": miou + 0.1,
            "iou": {"background": miou + 0.05, "one": None if run.seed else miou - 0.05},
            "content_sha256": "c",
            "model": run.model,
            "provenance": provenance(),
            "trained": {"content_sha256": "c", "weights_sha256": None, "provenance": provenance()},
        }
        | changes,
    )
    write_json(
        run.cost,
        {
            "network_ms": 10.0 + run.seed,
            "structure_ms": 1.0,
            "refine_ms": refine,
            "training_step_ms": 100.0,
            "parameters": 1_500_000,
            "provenance": changes.get("provenance", provenance()),
        },
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    changes = {"methods": ["ce", "rmi", "crf-1"], "seeds": [0, 1], "results": str(tmp_path / "results")}
    return configuration.complete(TINY | changes)


@pytest.fixture
def found(config: Config) -> dict[tuple[str, int], runs.Run]:
    return {(run.method, run.seed): run for run in runs.runs(config)}


def write_all(found: dict[tuple[str, int], runs.Run]) -> None:
    scores = {"ce": (0.60, 0.62), "rmi": (0.63, 0.64), "crf-1": (0.60, 0.64)}
    for (method, seed), run in found.items():
        write_run(run, scores[method][seed], refine=50.0 if method == "crf-1" else 0.0)


def csv(config: Config) -> pd.DataFrame:
    tabulate.tabulate(config)
    return pd.read_csv(Path(config["results"]) / "leaderboard.csv").set_index("method")


def test_statistics() -> None:
    assert mean_and_deviation([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert mean_and_deviation([2.0])[0] == 2 and math.isnan(mean_and_deviation([2.0])[1])
    assert all(map(math.isnan, mean_and_deviation([])))
    assert paired_differences({0: 3.0, 2: 5.0}, {2: 1.0, 0: 2.0, 1: 9.0}) == [1.0, 4.0]


def test_the_leaderboard(config: Config, found: dict) -> None:
    write_all(found)
    table = csv(config)
    assert list(table.index) == ["rmi", "crf-1", "ce"], "best first"
    assert {"dataset", "model", "seeds", "miou_mean", "miou_std", "error"} <= {*table.columns}
    rmi = table.loc["rmi"]
    assert (rmi["dataset"], rmi["model"], rmi["seeds"]) == ("digits", MODEL, 2)
    assert rmi["miou_mean"] == pytest.approx(63.5)
    assert rmi["miou_std"] == pytest.approx(np.std([63, 64], ddof=1))
    assert rmi["difference_mean"] == pytest.approx(2.5)
    assert rmi["difference_std"] == pytest.approx(np.std([3, 2], ddof=1)), "paired by seed"
    assert rmi["network_ms"] == 10.5 and rmi["parameters"] == 1_500_000
    assert table.loc["crf-1", "refine_ms"] == 50
    assert math.isnan(table.loc["ce", "difference_mean"])
    assert table["error"].isna().all()


def test_markdown_and_latex(config: Config, found: dict) -> None:
    write_all(found)
    text = tabulate.tabulate(config).read_text()
    assert "| rmi " in text and "63.50 ± 0.71" in text and "+2.50 ± 0.71" in text
    assert "| ce " in text and "baseline" in text
    assert "Times measured on: a CPU." in text
    assert "WARNING" not in text and "error" not in text
    latex = (Path(config["results"]) / "leaderboard.tex").read_text()
    assert r"63.50 $\pm$ 0.71" in latex and r"mIoU \%" in latex and r"deeplabv3plus-test\_resnet" in latex


def test_the_certificate_is_shown_where_a_row_has_one(config: Config, found: dict) -> None:
    write_all(found)
    text = tabulate.tabulate(config).read_text()
    assert "gap/cell" not in text and csv(config)["agreement"].isna().all()
    for seed, gap in ((0, 0.25), (1, 0.75)):
        write_run(found["rmi", seed], 0.6, diagnostics={"gap_per_cell": gap, "agreement": 0.9})
    text = tabulate.tabulate(config).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| rmi ")]
    assert "gap/cell" in text and "| 0.500 " in line and "| 90.0 " in line
    (line,) = [line for line in text.splitlines() if line.startswith("| ce ")]
    assert "0.500" not in line


def test_iou_per_class_leaves_out_seeds_in_which_the_class_does_not_occur(
    config: Config, found: dict
) -> None:
    write_all(found)
    tabulate.tabulate(config)
    table = pd.read_csv(Path(config["results"]) / "per_class.csv").set_index(["method", "class"])
    assert table.loc[("ce", "one"), "seeds"] == 1
    assert table.loc[("ce", "one"), "iou_mean"] == pytest.approx(55)
    assert table.loc[("ce", "background"), "iou_mean"] == pytest.approx(66)


def test_what_is_missing_is_a_row_with_its_reason(config: Config, found: dict) -> None:
    write_run(found["ce", 0], 0.6)
    failure = {
        "error": "the loss is nan at iteration 7 | lower it",
        "kind": "diverged",
        "stage": "train",
        "when": "",
    }
    write_json(found["rmi", 0].training.folder / "error.json", failure)
    found["rmi", 1].training.file.parent.mkdir(parents=True)
    found["rmi", 1].training.file.touch()
    write_json(found["crf-1", 0].metrics, json.loads(found["ce", 0].metrics.read_text()))
    found["crf-1", 1].folder.mkdir(parents=True)
    found["crf-1", 1].metrics.write_text("{")
    table = csv(config)
    assert table.loc["ce", "error"] == "seed 1: not trained yet" and table.loc["ce", "seeds"] == 1
    reason = "seed 0: train failed: the loss is nan at iteration 7 | lower it; seed 1: not evaluated yet"
    assert table.loc["rmi", "error"] == reason
    assert table.loc["rmi", "seeds"] == 0 and math.isnan(table.loc["rmi", "miou_mean"])
    assert table.loc["crf-1", "error"].startswith("seed 0: not measured yet; seed 1: ")
    assert "cannot be read" in table.loc["crf-1", "error"]
    assert r"iteration 7 \| lower it" in (Path(config["results"]) / "leaderboard.md").read_text()


def test_tables_without_a_single_result(config: Config) -> None:
    table = csv(config)
    assert (table["error"] == "seed 0, 1: not trained yet").all()


def test_a_failed_dataset_is_the_reason_of_all_its_runs(config: Config, found: dict) -> None:
    failure = {"error": "dataset digits: a file is missing", "kind": "input", "stage": "prepare", "when": ""}
    write_json(found["ce", 0].training.manifest.error, failure)
    assert csv(config)["error"].str.contains("prepare failed: dataset digits: a file is missing").all()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"provenance": provenance(commit="b" * 40)},
            "different commits of the code: aaaaaaaaaa, bbbbbbbbbb",
        ),
        ({"provenance": provenance(packages={"torch": "2.11"})}, "different versions of PyTorch"),
        ({"provenance": provenance(device="a GPU")}, "times come from different devices: a CPU; a GPU"),
        ({"content_sha256": "d"}, "rows of digits saw different files"),
        (
            {"trained": {"content_sha256": "c", "weights_sha256": "w", "provenance": provenance()}},
            "started from different files of weights",
        ),
        (
            {
                "trained": {
                    "content_sha256": "c",
                    "weights_sha256": None,
                    "provenance": provenance(commit="b"),
                }
            },
            "different commits of the code: aaaaaaaaaa, b",
        ),
    ],
)
def test_rows_that_must_not_be_compared_are_pointed_out(
    changes: dict, warning: str, config: Config, found: dict
) -> None:
    write_all(found)
    write_run(found["rmi", 0], 0.63, **changes)
    (line,) = (x for x in tabulate.tabulate(config).read_text().splitlines() if "WARNING" in x)
    assert warning in line


def test_the_stamp_is_of_the_runs_that_the_tables_show(config: Config, found: dict) -> None:
    stamp = runs.stamp(config)
    tabulate.tabulate(config)
    assert not stamp.exists(), "results are missing"
    write_all(found)
    tabulate.tabulate(config)
    assert stamp.exists()
    runs.forget_tables(config)
    assert not stamp.exists(), "results changed"
    tabulate.tabulate(config)
    fewer = config | {"methods": ["ce"]}
    tabulate.tabulate(fewer)
    assert runs.stamp(fewer).exists() and not stamp.exists(), "one stamp at a time"


def test_without_the_baseline_there_are_no_differences(config: Config, found: dict) -> None:
    write_all(found)
    table = csv(config | {"methods": ["rmi"]})
    assert table["difference_mean"].isna().all()
    assert table.loc["rmi", "miou_mean"] == pytest.approx(63.5)
