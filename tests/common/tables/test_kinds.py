"""Rows of several kinds: methods, what else their cost would buy, what was tuned, what a rule decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import reading
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.stages import report
from common.tables.frames import Tables
from common.tables.writing import write_tables
from tests.conftest import TINY
from tests.synthetic import cost_of, plain_counts, write_scores

ENTRIES: dict[str, dict[str, Any]] = {
    "crf-1": {"module": "densecrf", "iterations": 1},
    "ce-tta": {"module": "ce", "trained_as": "ce", "evaluation": {"flip": True}},
    "ce-long": {"module": "ce", "training": {"iterations": 12}},
}

SCORES = {"ce": 0.5, "rmi": 0.6, "crf-1": 0.55, "ce-tta": 0.7, "ce-long": 0.58}

Made = tuple[Tables, str, Benchmark]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Makes the tables and the leaderboard's page; `tuned`, `decides` and other settings are of rmi."""

    def tables(tuned: dict[str, Any] | None = None, decides: bool = False, **own: Any) -> Made:
        options = ENTRIES | ({"rmi": {"tuned": tuned} | own} if tuned else {})
        changes = {"methods": [*SCORES], "seeds": [0, 1], "method_options": options}
        benchmark = plan.benchmark(reading.complete(TINY | changes | {"results": str(tmp_path / "results")}))
        for run in benchmark.runs:
            assert isinstance(run, TrainedRun)
            miou = SCORES[run.method] + 0.01 * run.seed
            counts = plain_counts(run, miou, boundaries=True, probabilities=True)
            write_scores(run, counts, decides=decides and run.method == "rmi")
            if run.measured:
                cost_of(run, training_step_ms=5000.0).write(run.cost)
        text = write_tables(benchmark).read_text()
        return Tables.read(tmp_path / "results"), text, benchmark

    return tables


def lines_of(text: str, heading: str) -> dict[str, str]:
    """The lines of the table that has a heading, by method."""
    table = next(part for part in text.split("\n\n") if part.startswith("|") and heading in part)
    return {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}


def test_what_else_the_cost_buys_stands_behind_the_methods(make: Callable[..., Made]) -> None:
    tables, text, _ = make()
    board = tables.leaderboard.set_index("method")
    assert list(board.index) == ["rmi", "crf-1", "ce", "ce-tta", "ce-long"], "each kind best first"
    assert board["kind"].tolist() == ["method"] * 3 + ["alternative"] * 2
    assert (
        board.loc["ce-tta", "scored_on"] == "test, mean of flips" and board.loc["ce", "scored_on"] == "test"
    )
    assert board.loc["ce-tta", "rank"] == 1 and board["tuned"].isna().all()
    minutes = {"ce": 4, "rmi": 4, "crf-1": 4, "ce-tta": 4, "ce-long": 12}
    assert board["training_minutes"].to_dict() == pytest.approx({k: n * 5 / 60 for k, n in minutes.items()})
    lines = lines_of(text, "could show")
    assert "| alternative |" in lines["ce-tta"] and "| method " in lines["ce"] and "tuned" not in text
    assert "*alternative* rows are what else the cost" in text
    assert tables.budgets["kind"].isin(["method", "alternative"]).all()


def test_rows_that_were_tuned_for_more_than_others_are_told(make: Callable[..., Made]) -> None:
    tables, text, _ = make(tuned={"search": "results/tuning/x", "candidates": 8, "budget": 3})
    assert tables.leaderboard.set_index("method")["tuned"].dropna().to_dict() == {
        "rmi": "8 candidates, budget 3"
    }
    assert "| 8 candidates, budget 3 |" in lines_of(text, "could show")["rmi"]
    (warning,) = [line for line in text.splitlines() if "WARNING" in line]
    assert warning.endswith("different budgets: ce, crf-1 (not tuned); rmi (8 candidates, budget 3).")


def test_what_is_skipped_is_not_tuned(make: Callable[..., Made]) -> None:
    search = {"search": "results/tuning/x", "candidates": 8, "budget": 3}
    tables, text, _ = make(search, skip={TINY["models"][0]: "it is not wanted here"})
    assert "skipped: it is not wanted here" in text
    assert tables.leaderboard["tuned"].isna().all() and "different budgets" not in text


def test_calibration_of_the_input_of_a_rule_is_marked(
    make: Callable[..., Made],
) -> None:
    _, text, benchmark = make({"search": "x", "candidates": 8, "budget": 3}, decides=True)
    lines = lines_of(text, "NLL")
    assert "(of the input)" in lines["rmi"] and "(of the input)" not in lines["ce"]
    page = report.publish(benchmark).read_text()
    assert "of the input" in page and "8 candidates, budget 3" in page
    assert "Hollow: what else the cost buys." in page


def test_numbers_that_are_older_than_a_score_have_none_of_it(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    tables, text, _ = make()
    assert tables.leaderboard["recall_small_mean"].isna().all(), "the counts here have no objects"
    assert tables.leaderboard["miou_i_mean"].notna().all()
    assert lines_of(text, "mIoU-I %")["rmi"].count("–") == 3


def test_what_is_fitted_on_other_images_is_told(tmp_path: Path) -> None:
    fitted = {"start": "ce", "freeze": "network", "training": {"split": "val"}}
    changes = {"methods": ["ce", "temperature"], "method_options": {"temperature": fitted}}
    config = reading.complete(TINY | changes | {"results": str(tmp_path / "results")})
    text = write_tables(plan.benchmark(config)).read_text()
    assert "temperature is fitted on val, after a network that stays as it is" in text
