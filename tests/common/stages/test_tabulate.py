"""Tables from run files: what they say, and what they say when something is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.config import reading
from common.config.entries import Config
from common.datasets.digits import Digits
from common.errors import UnreadableRecord
from common.failures import Failure
from common.files import write_record
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.runs.outputs import forget_tables
from common.scoring.counts import SplitCounts
from common.stages import tabulate
from common.tables import blocks
from tests import synthetic
from tests.conftest import TINY
from tests.synthetic import cost_of, facts_of, plain_counts, provenance, write_scores

MODEL = "deeplabv3plus-test_resnet"

Runs = dict[tuple[str, int], TrainedRun]


def write_run(
    run: TrainedRun, miou: float, refine: float = 0.0, counts: SplitCounts | None = None, **changes: Any
) -> None:
    """Writes counts and scores, with some values changed, and cost of a run."""
    write_scores(run, counts or plain_counts(run, miou), **changes)
    cost_of(run, refine_ms=refine, provenance=changes.get("provenance", provenance())).write(run.cost)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    changes = {"methods": ["ce", "rmi", "crf-1"], "seeds": [0, 1], "results": str(tmp_path / "results")}
    return reading.complete(TINY | changes | {"execution": TINY["execution"] | {"measure": "all"}})


def runs_of(config: Config) -> Runs:
    return {(run.method, run.seed): run for run in plan.runs(config)}


@pytest.fixture
def runs(config: Config) -> Runs:
    return runs_of(config)


def counts_about(run: TrainedRun, miou: float) -> SplitCounts:
    """Counts of 30 images with about that score."""
    random, k = np.random.default_rng(round(1e4 * miou)), len(run.data.dataset.class_names)
    hits = random.binomial(1000, 2 * miou / (1 + miou), (30, 2))
    confusion, boundary = np.zeros((30, k, k), np.int64), np.zeros((30, 2, k), np.int64)
    confusion[:, 0, 0], confusion[:, 1, 1] = hits.T
    confusion[:, 0, 1], confusion[:, 1, 0] = 1000 - hits.T
    boundary[:, 0, :2], boundary[:, 1, :2] = hits // 20, 50
    return synthetic.counts_of(confusion, boundary)


def write_all(runs: Runs) -> None:
    scores = {"ce": (0.60, 0.62), "rmi": (0.63, 0.64), "crf-1": (0.60, 0.64)}
    for (method, seed), run in runs.items():
        write_run(run, scores[method][seed], refine=50.0 if method == "crf-1" else 0.0)


def page(config: Config) -> str:
    return tabulate.tabulate(plan.benchmark(config)).read_text()


def csv(config: Config, damaged: int = 0) -> pd.DataFrame:
    """The leaderboard; `damaged` is how many results have files that are."""
    with contextlib.ExitStack() as stack:
        if damaged:
            message = f"files of {damaged} results are damaged or out of reach, and their rows say why"
            stack.enter_context(pytest.raises(UnreadableRecord, match=message))
        page(config)
    return pd.read_csv(Path(config["results"]) / "leaderboard.csv").set_index("method")


def test_the_leaderboard(config: Config, runs: Runs) -> None:
    write_all(runs)
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


def test_markdown_and_latex(config: Config, runs: Runs) -> None:
    write_all(runs)
    text = page(config)
    half = 12.706 * 0.7071 / 2**0.5
    assert "| rmi " in text and f"63.50 ± {half:.2f}" in text and "+2.50" in text
    assert "| ce " in text and "baseline" in text
    assert "Times measured on: a CPU." in text
    assert "WARNING" not in text and "error " not in text
    latex = (Path(config["results"]) / "leaderboard.tex").read_text()
    assert rf"63.50 $\pm$ {half:.2f}" in latex and r"mIoU \%" in latex
    assert r"deeplabv3plus-test\_resnet" in latex


def test_the_certificate_is_shown_where_a_row_has_one(config: Config, runs: Runs) -> None:
    write_all(runs)
    text = page(config)
    assert "gap/cell" not in text and csv(config)["agreement"].isna().all()
    for seed, gap in ((0, 0.25), (1, 0.75)):
        write_run(runs["rmi", seed], 0.6, diagnostics={"gap_per_cell": gap, "agreement": 0.9})
    text = page(config)
    (table,) = [part for part in text.split("\n\n") if "gap/cell" in part and part.startswith("|")]
    (line,) = table.splitlines()[2:]
    assert line.startswith("| rmi ") and "| 0.500 " in line and "| 90.0 " in line


def test_iou_per_class_leaves_out_seeds_in_which_the_class_does_not_occur(config: Config, runs: Runs) -> None:
    write_all(runs)
    page(config)
    table = pd.read_csv(Path(config["results"]) / "per_class.csv").set_index(["method", "class"])
    assert table.loc[("ce", "0"), "seeds"] == 1
    assert table.loc[("ce", "0"), "iou_mean"] == pytest.approx(55)
    assert table.loc[("ce", "background"), "iou_mean"] == pytest.approx(66)


def test_what_is_missing_is_a_row_with_its_reason(config: Config, runs: Runs) -> None:
    write_run(runs["ce", 0], 0.6)
    failure = Failure("the loss is nan at iteration 7 | lower it", "diverged", "train", "")
    write_record(runs["rmi", 0].training.error, failure)
    runs["rmi", 1].training.file.parent.mkdir(parents=True)
    runs["rmi", 1].training.file.touch()
    write_scores(runs["crf-1", 0], plain_counts(runs["crf-1", 0], 0.6))
    runs["crf-1", 1].folder.mkdir(parents=True)
    runs["crf-1", 1].metrics.write_text("{")
    table = csv(config, damaged=1)
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


def test_a_failed_dataset_is_the_reason_of_all_its_runs(config: Config, runs: Runs) -> None:
    failure = Failure("dataset digits: a file is missing", "input", "prepare", "")
    write_record(runs["ce", 0].data.error, failure)
    assert csv(config)["error"].str.contains("prepare failed: dataset digits: a file is missing").all()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"provenance": provenance(commit="b" * 40)},
            "rows were made by different code: aaaaaaaaaa, bbbbbbbbbb.",
        ),
        ({"provenance": provenance(packages={"torch": "2.11"})}, "different versions of torch (2.11, 2.14)."),
        ({"provenance": provenance(device="a GPU")}, "times come from different devices: a CPU; a GPU"),
        ({"content_sha256": "d"}, "rows of digits saw different files"),
    ],
)
def test_rows_that_must_not_be_compared_are_pointed_out(
    changes: dict, warning: str, config: Config, runs: Runs
) -> None:
    write_all(runs)
    write_run(runs["rmi", 0], 0.63, **changes)
    (line,) = (x for x in page(config).splitlines() if "WARNING" in x)
    assert warning in line


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"content_sha256": "d"}, "rows of digits saw different files"),
        ({"weights_sha256": "w"}, "started from different files of weights"),
        ({"provenance": provenance(commit="b")}, "rows were made by different code: aaaaaaaaaa, b."),
    ],
)
def test_models_that_must_not_be_compared_are_pointed_out(
    changes: dict, warning: str, config: Config, runs: Runs
) -> None:
    write_all(runs)
    write_run(runs["rmi", 0], 0.63, trained=facts_of(runs["rmi", 0].training, **changes))
    (line,) = (x for x in page(config).splitlines() if "WARNING" in x)
    assert warning in line


def test_training_steps_of_different_batches_are_pointed_out(config: Config, runs: Runs) -> None:
    write_all(runs)
    run = runs["rmi", 0]
    cost_of(run, training_batch=16).write(run.cost)
    (line,) = (x for x in page(config).splitlines() if "WARNING" in x)
    assert "batches of different sizes" in line


def test_the_stamp_is_of_the_runs_that_the_tables_show(config: Config, runs: Runs) -> None:
    stamp = plan.benchmark(config).outputs.stamp
    page(config)
    assert not stamp.exists(), "results are missing"
    write_all(runs)
    page(config)
    assert stamp.exists()
    forget_tables(stamp.parent)
    assert not stamp.exists(), "results changed"
    page(config)
    fewer = config | {"methods": ["ce"]}
    page(fewer)
    assert plan.benchmark(fewer).outputs.stamp.exists() and not stamp.exists(), "one stamp at a time"


def test_without_the_baseline_there_are_no_differences(config: Config, runs: Runs) -> None:
    write_all(runs)
    table = csv(config | {"methods": ["rmi"]})
    assert table["difference_mean"].isna().all()
    assert table.loc["rmi", "miou_mean"] == pytest.approx(63.5)


def main_table(config: Config) -> dict[str, str]:
    """The lines of the first table of the page, by method."""
    table = next(part for part in page(config).split("\n\n") if part.startswith("|"))
    return {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}


def test_differences_have_intervals_and_are_read(config: Config) -> None:
    config = config | {"seeds": [0, 1, 2, 3]}
    means = {"ce": 0.60, "rmi": 0.70, "crf-1": 0.601}
    for run in plan.runs(config):
        wobble = 0.004 * (run.seed - 1.5) * (1 if run.method == "ce" else -0.5)
        score = means[run.method] + wobble
        counts = dataclasses.replace(counts_about(run, score), boundary=counts_about(run, 0.6).boundary)
        write_run(run, score, counts=counts)
    table = csv(config)
    compared = pd.read_csv(Path(config["results"]) / "comparisons.csv").set_index(["metric", "method"])
    rmi = compared.loc[("miou", "rmi")]
    assert rmi["difference"] == pytest.approx(10, abs=0.3) and (rmi["seeds"], rmi["images"]) == (4, 30)
    assert rmi["low"] < rmi["images_low"] < rmi["difference"] < rmi["images_high"] < rmi["high"]
    assert rmi["low"] < rmi["seeds_low"] and rmi["p"] < rmi["p_holm"] < 0.05
    assert table["reading"].to_dict() == {"ce": "baseline", "rmi": "better", "crf-1": "no difference shown"}
    assert table["rank"].to_dict() == {"rmi": 1, "crf-1": 2, "ce": 2}
    for left, right in (("difference_low", "low"), ("detectable", "detectable"), ("p_holm", "p_holm")):
        assert table.loc["rmi", left] == pytest.approx(rmi[right])
    assert set(compared.loc["boundary_iou"]["reading"]) == {"no difference shown"}
    lines = main_table(config)
    assert "| better " in lines["rmi"] and f"[{rmi['low']:+.2f}, {rmi['high']:+.2f}]" in lines["rmi"]
    assert list(lines) == ["rmi", "crf-1", "ce"]


def test_one_seed_is_said_to_say_little(config: Config) -> None:
    config = config | {"seeds": [0]}
    for run in plan.runs(config):
        score = 0.6 if run.method == "ce" else 0.8
        write_run(run, score, counts=counts_about(run, score))
    table = csv(config)
    assert table["reading"].to_dict() == {"ce": "baseline", "rmi": "one seed", "crf-1": "one seed"}
    assert table[["difference_low", "miou_low", "rank", "detectable"]].isna().all(axis=None)
    lines = main_table(config)
    assert "]* " in lines["rmi"] and "One seed says nothing of another" in page(config)


def test_boundaries_and_calibration_have_tables(config: Config, runs: Runs) -> None:
    write_all(runs)
    assert "Boundaries and calibration" not in page(config)
    assert csv(config)["boundary_iou_mean"].isna().all()
    for seed in (0, 1):
        run = runs["rmi", seed]
        write_run(run, 0.6, counts=plain_counts(run, 0.6, boundaries=True, probabilities=True))
    table = csv(config)
    folder = Path(config["results"])
    rmi = table.loc["rmi"]
    assert (rmi["boundary_iou_mean"], rmi["boundary_f_mean"], rmi["ece_mean"]) == pytest.approx((30, 50, 10))
    assert rmi["nll_mean"] == pytest.approx(0.7) and math.isnan(table.loc["ce", "boundary_iou_mean"])
    trimap = pd.read_csv(folder / "trimap.csv")
    assert trimap[["width", "miou_mean", "seeds"]].values.tolist() == [
        [1, 10, 2], [2, 20, 2], [4, 30, 2], [8, 40, 2],
    ]  # fmt: skip
    bins = pd.read_csv(folder / "calibration.csv")
    assert (bins["pixels"] > 0).tolist() == [place == 13 for place in range(15)]
    assert math.isnan(bins["accuracy"][0])
    assert bins.loc[13, ["bin_low", "confidence", "accuracy"]].tolist() == pytest.approx([13 / 15, 0.9, 0.8])
    text = (folder / "leaderboard.md").read_text()
    (part,) = [part for part in text.split("\n\n") if "trimap 1 px" in part and part.startswith("|")]
    (line,) = [line for line in part.splitlines() if line.startswith("| ce ")]
    assert {cell.strip() for cell in line.split("|")[2:7]} == {"–"}


def test_controls_bracket_the_table(config: Config, runs: Runs) -> None:
    write_all(runs)
    for control, score in zip(plan.controls(config, "digits", MODEL), (0.1, 0.9)):
        write_scores(control, plain_counts(control, score, boundaries=True))
    table = csv(config)
    assert list(table.index) == ["rmi", "crf-1", "ce", "majority", "ceiling"], "last, whatever their scores"
    assert table["control"].tolist() == [False] * 3 + [True] * 2
    assert table.loc["ceiling", "miou_mean"] == pytest.approx(90)
    assert table.loc[["majority", "ceiling"], ["rank", "latency_ms", "difference_mean"]].isna().all(axis=None)
    lines = main_table(config)
    assert "| control " in lines["(majority)"] and "bracket the table" in page(config)
    classes = pd.read_csv(Path(config["results"]) / "per_class.csv")
    assert "ceiling" in set(classes["method"])
    assert "different files" not in page(config)
    write_scores(control, plain_counts(control, score, boundaries=True), content_sha256="other")
    assert "rows of digits saw different files" in page(config)


def test_a_control_that_failed_is_a_row_with_its_reason(config: Config, runs: Runs) -> None:
    write_all(runs)
    majority, ceiling = plan.controls(config, "digits", MODEL)
    write_record(majority.error, Failure("a file is missing", "input", "controls", ""))
    ceiling.metrics.parent.mkdir(parents=True)
    ceiling.metrics.write_text("{")
    errors = csv(config, damaged=1)["error"]
    assert (
        errors["majority"] == "controls failed: a file is missing" and "cannot be read" in errors["ceiling"]
    )
    assert errors[["ce", "rmi"]].isna().all()


def test_no_column_mixes_devices(config: Config, runs: Runs) -> None:
    write_all(runs)
    write_run(runs["rmi", 0], 0.63, provenance=provenance(device="a GPU"))
    write_run(runs["crf-1", 0], 0.6, provenance=provenance(device="a GPU"))
    write_run(runs["crf-1", 1], 0.6, provenance=provenance(device="a GPU"))
    table = csv(config)
    assert table.loc["rmi", "network_ms"] == 11, "of the seed that was measured on the CPU"
    assert table.loc[["ce", "rmi"], "device"].tolist() == ["a CPU"] * 2
    assert pd.isna(table.loc["crf-1", "device"])
    assert math.isnan(table.loc["crf-1", "network_ms"]) and table.loc["crf-1", "parameters"] == 1_500_000
    costs = pd.read_csv(Path(config["results"]) / "cost.csv").set_index(["method", "device"])
    assert costs["seeds"].to_dict() == {
        ("ce", "a CPU"): 2, ("rmi", "a CPU"): 1, ("rmi", "a GPU"): 1, ("crf-1", "a GPU"): 2,
    }  # fmt: skip
    assert costs.loc[("crf-1", "a GPU"), "latency_ms"] == 11.5


def test_rows_of_one_training_share_what_was_measured_of_it(config: Config, runs: Runs) -> None:
    steps = {"ce": 100.0, "rmi": 150.0, "crf-1": 120.0}  # crf-1 refines the models of ce
    for (method, _), run in runs.items():
        write_run(run, 0.5)
        cost_of(run, training_step_ms=steps[method]).write(run.cost)
    assert csv(config)["training_step_ms"].to_dict() == {"ce": 110.0, "rmi": 150.0, "crf-1": 110.0}


def test_what_no_other_method_beats_is_on_the_front(config: Config, runs: Runs) -> None:
    write_all(runs)  # rmi 63.5 in 11.5 ms, crf-1 62 in 61.5 ms, ce 61 in 11.5 ms
    table = csv(config)
    assert table["pareto_latency"].to_dict() == {"rmi": True, "crf-1": False, "ce": False}
    for seed in (0, 1):
        run = runs["ce", seed]
        cost_of(run, network_ms=5.0 + 0.1 * seed, parameters=10**6).write(run.cost)
    assert csv(config)["pareto_latency"].to_dict() == {"rmi": True, "crf-1": False, "ce": True}


def test_tables_of_the_same_files_are_the_same(config: Config, runs: Runs) -> None:
    for run in runs.values():
        score = 0.6 + 0.01 * run.seed
        write_run(run, score, counts=counts_about(run, score))
    folder = Path(config["results"])
    pages = []
    for _ in range(2):
        page(config)
        pages.append([(folder / f"{name}.csv").read_text() for name in ("leaderboard", "comparisons")])
        (folder / "cache/bootstrap.json").unlink()
    assert pages[0] == pages[1]


def test_the_page_says_how_images_were_resampled(
    config: Config, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for (method, seed), run in runs.items():
        score = 0.6 + 0.01 * seed + 0.02 * len(method)
        write_run(run, score, counts=counts_about(run, score))
    assert "digits: images are resampled one by one" in page(config)
    monkeypatch.setattr(Digits, "sequence", lambda self, split, name: (split, int(name)))
    monkeypatch.setattr(blocks, "best_length", lambda *_: 1.2)
    assert "resampled in blocks of 2 on average (stationary bootstrap); 30 images are worth 10" in page(
        config
    )
