"""What tables say of times: their spread, doubts about them, and which runs are to have any."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from common.config import reading
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.stages import report, status
from common.tables.costs import pareto
from common.tables.frames import Tables
from common.tables.writing import write_tables
from tests.synthetic import QUIET, cost_of, plain_counts, write_scores

Runs = dict[tuple[str, int], TrainedRun]

SCORES = {"ce": 0.6, "rmi": 0.7, "crf-1": 0.65}
"""Methods with their scores; crf-1 uses the models of ce."""

BUSY = dataclasses.replace(QUIET, other_cores=1.3)


@pytest.fixture
def make(tiny: dict) -> Callable[[str], tuple[Benchmark, Runs]]:
    """A benchmark of three methods and two seeds, all scored, of which some runs are to be measured."""

    def benchmark(measure: str) -> tuple[Benchmark, Runs]:
        changes = {
            "methods": [*SCORES],
            "seeds": [1, 0],
            "execution": tiny["execution"] | {"measure": measure},
        }
        made = plan.benchmark(reading.complete(tiny | changes))
        runs = {(run.method, run.seed): run for run in made.runs if isinstance(run, TrainedRun)}
        for (method, _), run in runs.items():
            write_scores(run, plain_counts(run, SCORES[method]))
        return made, runs

    return benchmark


@pytest.fixture
def measured(make: Callable[[str], tuple[Benchmark, Runs]]) -> tuple[Benchmark, Runs]:
    """The same, and all have been measured on a quiet machine, in times that agree."""
    benchmark, runs = make("all")
    for run in runs.values():
        write(run)
    return benchmark, runs


def write(run: TrainedRun, **changes: Any) -> None:
    """Writes the cost of a run; refinement takes 5 ms, all else is equal."""
    refine = 5.0 if run.method != run.training.method else 0.0
    cost_of(run, **({"network_ms": 10.0, "refine_ms": refine} | changes)).write(run.cost)


def tables(benchmark: Benchmark) -> tuple[pd.DataFrame, str]:
    """The leaderboard by method, and the page."""
    text = write_tables(benchmark).read_text()
    return Tables.read(benchmark.outputs.results).leaderboard.set_index("method"), text


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "WARNING" in line]


def cost_lines(text: str) -> dict[str, dict[str, str]]:
    """The cells of the table of costs, by method and heading."""
    (table,) = [part for part in text.split("\n\n") if part.startswith("|") and "network ms" in part]
    heading, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return {cells[0]: dict(zip(heading, cells)) for cells in lines}


def test_tables_show_the_quartiles_of_repeated_timings(measured: tuple[Benchmark, Runs]) -> None:
    benchmark, runs = measured
    steps = [100.0, 110.0, 120.0, 200.0, 300.0]
    for seed in (0, 1):
        run = runs["rmi", seed]
        timings = {part: [9.0, 10.0, 11.0, 12.0, 40.0] for part in ("network", "latency")}
        timings |= {part: [0.0] * 5 for part in ("structure", "refine")}
        medians = {"network_ms": 11.0, "structure_ms": 0.0, "training_step_ms": 120.0}
        cost = cost_of(run, **medians, inference_timings=timings, training_timings=steps)
        cost.write(run.cost)
    board, text = tables(benchmark)
    spread = ["latency_q1_ms", "latency_q3_ms", "training_step_q1_ms", "training_step_q3_ms"]
    assert board.loc["rmi", spread].tolist() == [10, 12, 110, 200]
    assert board.loc["ce", "latency_q1_ms"] == pytest.approx(0.98 * 11)
    lines = cost_lines(text)
    assert lines["rmi"]["latency ms"].endswith(" (10.0 to 12.0)")
    assert lines["rmi"]["train step ms"] == "120.0 (110.0 to 200.0)"
    assert not warnings(text) and "note" not in lines["rmi"]


def test_a_busy_machine_is_noted_and_earns_no_mark(measured: tuple[Benchmark, Runs]) -> None:
    benchmark, runs = measured
    assert tables(benchmark)[0]["pareto_latency"].to_dict() == {"rmi": True, "crf-1": False, "ce": False}
    write(runs["rmi", 0], load=BUSY)
    board, text = tables(benchmark)
    (line,) = warnings(text)
    assert "measured on a busy machine (digits, " in line
    assert line.endswith("rmi (other processes used 1.3 of 2 cores).")
    assert board["pareto_latency"].isna().all(), "rmi may beat them all"
    assert board.loc["rmi", "latency_doubt"] == board.loc["rmi", "training_doubt"] == "busy machine"
    lines = cost_lines(text)
    assert lines["rmi"]["note"] == "busy machine" and lines["rmi"]["Pareto"] == "–"
    assert lines["rmi"]["latency ms"].startswith("~11.0 ") and lines["ce"]["latency ms"].startswith("11.0 ")
    page = report.publish(benchmark).read_text()
    assert "measured on a busy machine" in page and "~11.0" in page and "The line joins" not in page


@pytest.mark.parametrize(
    ("changes", "sentence", "doubtful"),
    [
        (
            {("rmi", 0): {"refine_ms": 2.0}},
            "latency of rmi (digits, {}) differs between seeds: 11.0 to 13.0 ms",
            {"rmi": "seeds disagree"},
        ),
        (
            {("rmi", seed): {"network_ms": 11.6} for seed in (0, 1)},
            "equal networks of ce, rmi, crf-1 (digits, {}) differ in their part of latency: 10.0 to 11.6 ms",
            dict.fromkeys(SCORES, "equal networks disagree"),
        ),
        ({("rmi", 0): {"network_ms": 11.4}}, "", {}),
        ({("rmi", seed): {"network_ms": 30.0, "parameters": 7} for seed in (0, 1)}, "", {}),
        ({("rmi", seed): {"network_ms": 30.0, "multiply_adds": 7} for seed in (0, 1)}, "", {}),
    ],
)
def test_latencies_that_should_be_equal_and_are_not(
    changes: dict[tuple[str, int], dict[str, Any]],
    sentence: str,
    doubtful: dict[str, str],
    measured: tuple[Benchmark, Runs],
) -> None:
    benchmark, runs = measured
    for key, values in changes.items():
        write(runs[key], **values)
    board, text = tables(benchmark)
    wanted = [f"- WARNING: {sentence.format(benchmark.groups[0].model)}."] if sentence else []
    assert warnings(text) == wanted
    assert board["latency_doubt"].dropna().to_dict() == doubtful
    assert board["training_doubt"].isna().all()
    for method in doubtful:
        assert board.loc[method, "pareto_latency"] is not True


@pytest.mark.parametrize("method", ["ce", "crf-1"])
def test_measurements_of_one_training_that_disagree(method: str, measured: tuple[Benchmark, Runs]) -> None:
    benchmark, runs = measured
    write(runs[method, 1], training_step_ms=120.0)
    board, text = tables(benchmark)
    (line,) = warnings(text)
    assert "training steps of the same models, of ce, crf-1 (digits, " in line
    assert line.endswith("differ: 100.0 to 120.0 ms.")
    assert board["training_doubt"].dropna().index.tolist() == ["crf-1", "ce"]
    assert board["latency_doubt"].isna().all()
    assert board["pareto_training"].to_dict()["rmi"] is True, "none of them is as accurate"


def test_only_the_first_seed_is_to_be_measured(make: Callable[[str], tuple[Benchmark, Runs]]) -> None:
    benchmark, runs = make("first_seed")
    states = {one.run.seed: one.state for one in status.status(benchmark)}
    assert states == {1: "scored", 0: "done"}, "1 is the first of the configuration"
    assert "seed 1: not measured yet" in tables(benchmark)[0].loc["rmi", "error"]
    for method in SCORES:
        write(runs[method, 1])
        write(runs[method, 0], network_ms=500.0)  # of a time when all were measured
    board, text = tables(benchmark)
    assert board["error"].isna().all() and not warnings(text) and benchmark.outputs.stamp.exists()
    assert board["network_ms"].tolist() == [10.0] * 3 and board["seeds"].tolist() == [2] * 3
    assert {one.state for one in status.status(benchmark)} == {"done"}


def test_where_nothing_is_measured_there_are_no_costs(
    make: Callable[[str], tuple[Benchmark, Runs]], tmp_path: Path
) -> None:
    benchmark, _ = make("none")
    assert {one.state for one in status.status(benchmark)} == {"done"}
    board, text = tables(benchmark)
    assert board["error"].isna().all() and benchmark.outputs.stamp.exists()
    for word in ("WARNING", "latency", "train step", "Pareto", "network ms", "measured"):
        assert word not in text, word
    assert "latency" not in report.publish(benchmark).read_text()
    assert "network ms" not in (benchmark.outputs.results / "leaderboard.tex").read_text()


def test_what_is_measured_is_part_of_no_digest_but_of_the_tables(
    make: Callable[[str], tuple[Benchmark, Runs]],
) -> None:
    made = [make(measure)[0] for measure in ("all", "first_seed", "none")]
    assert len({tuple(str(run.folder) for run in benchmark.runs) for benchmark in made}) == 1
    assert len({benchmark.outputs.stamp for benchmark in made}) == 3


def test_a_mark_depends_on_no_doubtful_cost() -> None:
    """Against the definition, with doubtful costs of any size: a flag is what it is for all of them."""
    values = (1.0, 2.0)
    for accuracy in itertools.product(values, repeat=3):
        for cost in itertools.product(values, repeat=3):
            for doubtful in itertools.product((False, True), repeat=3):
                assert pareto(accuracy, cost, doubtful) == [
                    None if doubtful[i] else _in_any_case(i, accuracy, cost, doubtful) for i in range(3)
                ]
    assert pareto([1.0, math.nan], [1.0, 1.0], [False, True]) == [True, None]


def _in_any_case(
    index: int, accuracy: tuple[float, ...], cost: tuple[float, ...], doubtful: tuple[bool, ...]
) -> bool | None:
    """Whether no other result beats one, whatever the doubtful costs are; None if it depends on them."""
    answers = set()
    for costs in itertools.product(*((0.5, 1.5, 2.5) if d else (c,) for c, d in zip(cost, doubtful))):
        a, c = accuracy[index], costs[index]
        beaten = any(b >= a and d <= c and (b > a or d < c) for b, d in zip(accuracy, costs))
        answers.add(not beaten)
    return answers.pop() if len(answers) == 1 else None
