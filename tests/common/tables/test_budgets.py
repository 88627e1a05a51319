"""What is best at every budget, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.config import reading
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.scoring.counts import SplitCounts
from common.tables.answers import answers
from common.tables.frames import Tables
from common.tables.writing import write_tables
from tests.conftest import TINY
from tests.synthetic import cost_of, counts_of, write_scores

BIG = "deeplabv3plus-test_resnet"
SMALL = "fcn-test_resnet"

Measured = dict[tuple[str, str], tuple[float, float, float]]
"""MIoU in 0–1, milliseconds of the network and of a step of training, by model and method."""

MEASURED: Measured = {
    (SMALL, "ce"): (0.50, 4.0, 40.0),
    (SMALL, "crf-1"): (0.55, 4.0, 40.0),
    (SMALL, "rmi"): (0.49, 4.2, 60.0),
    (BIG, "ce"): (0.70, 10.0, 100.0),
    (BIG, "crf-1"): (0.701, 10.0, 100.0),
    (BIG, "rmi"): (0.40, 10.5, 120.0),
}


def counts_about(run: TrainedRun, miou: float) -> SplitCounts:
    """Counts of 60 images with two classes and about that score; a seed is as lucky with all methods."""
    random, k = np.random.default_rng(run.seed), len(run.data.dataset.class_names)
    ease = random.uniform(-0.02, 0.02, (60, 1))
    hits = np.rint(10_000 * (2 * miou / (1 + miou) + ease)).astype(int).repeat(2, axis=1)
    confusion = np.zeros((60, k, k), np.int64)
    confusion[:, 0, 0], confusion[:, 1, 1] = hits.T
    confusion[:, 0, 1], confusion[:, 1, 0] = 10_000 - hits.T
    return counts_of(confusion, np.zeros((60, 2, k)))


@pytest.fixture
def tables(tmp_path: Path) -> Callable[..., tuple[Tables, str]]:
    """Makes the tables and the page of a benchmark of two models, as it was measured."""

    def make(measured: Measured = MEASURED, seeds: int = 4, **costs: Any) -> tuple[Tables, str]:
        small = {"weights": "none", "output_stride": 8}
        changes = {
            "methods": ["ce", "crf-1", "rmi"],
            "models": [SMALL, BIG],
            "model_options": TINY["model_options"] | {SMALL: small},
            "seeds": [*range(seeds)],
            "results": str(tmp_path / "results"),
        }
        benchmark = plan.benchmark(reading.complete(TINY | changes))
        for run in benchmark.runs:
            assert isinstance(run, TrainedRun)
            miou, network, step = measured[run.model, run.method]
            write_scores(run, counts_about(run, miou + 0.0005 * run.seed))
            refine = 20.0 if run.method == "crf-1" else 0.0
            if run.measured:
                cost_of(
                    run, network_ms=network, structure_ms=0.0, refine_ms=refine, training_step_ms=step,
                    parameters=len(run.model), **costs,
                ).write(run.cost)  # fmt: skip
        page = write_tables(benchmark).read_text()
        return Tables.read(tmp_path / "results"), page

    return make


def places(budgets: pd.DataFrame, cost: str) -> dict[float, list[str]]:
    """What is best, and what shares that, by budget."""
    own = budgets[budgets["budget_of"] == cost]
    return {
        budget: [
            f"{model.partition('-')[0]} {method}" for model, method in zip(lines["model"], lines["method"])
        ]
        for budget, lines in own.groupby("budget")
    }


def test_the_best_of_every_budget_and_what_shares_it(tables: Callable[..., tuple[Tables, str]]) -> None:
    budgets = tables()[0].budgets
    assert places(budgets, "latency_ms") == {
        4.0: ["fcn ce"],
        10.0: ["deeplabv3plus ce"],
        30.0: ["deeplabv3plus crf-1"],
    }, "rmi is shown to be worse, and so is the CRF that costs 24 ms on the small model"
    minutes = [4 * step / 60_000 for step in (40, 100)]
    of_training = places(budgets, "training_minutes")
    assert [*of_training] == pytest.approx(minutes)
    assert [*of_training.values()] == [["fcn crf-1"], ["deeplabv3plus crf-1"]], "it shares the training of ce"
    best = budgets.iloc[0]
    assert (best["place"], best["cost"], best["seeds"], best["device"]) == ("best", 4.0, 4, "a CPU")
    assert best["miou_low"] < best["miou_mean"] < best["miou_high"]


def test_what_is_not_shown_to_be_worse_shares_a_budget(tables: Callable[..., tuple[Tables, str]]) -> None:
    measured = MEASURED | {(BIG, "rmi"): (0.7, 9.0, 90.0)}
    budgets = tables(measured)[0].budgets
    assert places(budgets, "latency_ms") == {
        4.0: ["fcn ce"],
        9.0: ["deeplabv3plus rmi", "deeplabv3plus ce"],
        30.0: ["deeplabv3plus crf-1"],
    }
    shared = budgets[budgets["place"] == "shares it"].iloc[0]
    assert shared["difference"] == 0 and shared["low"] == shared["high"] == 0
    assert (shared["budget"], shared["holds_from"], shared["cost"]) == (9.0, 10.0, 10.0)


def test_what_is_worth_its_cost_in_words(tables: Callable[..., tuple[Tables, str]]) -> None:
    own, page = tables()
    latency, training = answers(own.leaderboard, own.budgets)
    big, small = f"of {BIG}", f"of {SMALL}"
    assert latency.sentences == (
        f"The least latency, 4.0 ms, buys ce {small}, with an mIoU of 50.14 %. "
        f"Worth a longer latency, being shown to be better than all that costs no more: ce {big} (10.0 ms), "
        f"crf-1 {big} (30.0 ms). Shown to be worse than something that costs no more: rmi {small} (4.2 ms), "
        f"rmi {big} (10.5 ms), crf-1 {small} (24.0 ms)."
    )
    assert list(latency.cells["best"]) == [f"ce {small}", f"ce {big}", f"crf-1 {big}"]
    assert list(latency.cells["latency ms ≤"]) == ["4.0", "10.0", "30.0"]
    assert "Shown to be worse than something that costs no more: rmi" in training.sentences
    assert page.index("IoU per class") < page.index("what is worth its cost") < page.index("How to read this")
    assert "Best for no more than a latency, on a CPU" in page


def test_a_model_is_named_where_several_have_a_row_of_the_method(
    tables: Callable[..., tuple[Tables, str]],
) -> None:
    own, _ = tables()
    board = own.leaderboard.copy()
    board.loc[(board["method"] == "rmi") & (board["model"] == BIG), "miou_mean"] = float("nan")
    latency, _ = answers(board, own.budgets)
    assert f"ce of {BIG} (10.0 ms)" in latency.sentences
    assert "rmi (4.2 ms)" in latency.sentences and "rmi of" not in latency.sentences


def test_one_seed_shows_nothing(tables: Callable[..., tuple[Tables, str]]) -> None:
    own, _ = tables(seeds=1)
    latency, _ = answers(own.leaderboard, own.budgets)
    assert latency.sentences.endswith("With one seed nothing is shown of what is worth its cost.")
    assert "Worth" not in latency.sentences
    assert own.budgets["low"].isna().all()


def test_doubtful_costs_are_marked(tables: Callable[..., tuple[Tables, str]]) -> None:
    measured = MEASURED | {(SMALL, "rmi"): (0.49, 6.0, 60.0)}  # an equal network that takes longer
    own, _ = tables(measured)
    latency, _ = answers(own.leaderboard, own.budgets)
    assert latency.sentences.startswith("The least latency, ~4.0 ms, buys")
    assert list(latency.cells["latency ms ≤"]) == ["~4.0", "10.0", "30.0"]


def test_rows_without_a_cost_are_named(tables: Callable[..., tuple[Tables, str]]) -> None:
    own, _ = tables()
    board = own.leaderboard.copy()
    board.loc[(board["method"] == "rmi") & (board["model"] == BIG), "latency_ms"] = float("nan")
    latency, training = answers(board, own.budgets)
    assert latency.sentences.endswith(f"Not measured there, so not compared: rmi of {BIG}.")
    assert "Not measured" not in training.sentences


def test_without_costs_there_is_nothing_to_say(tables: Callable[..., tuple[Tables, str]]) -> None:
    own, _ = tables()
    board = own.leaderboard.assign(device=float("nan"))
    assert answers(board, own.budgets.iloc[:0]) == []
