"""What the files of runs say, and what is said of those that are damaged or of another run."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest

from common.config import reading
from common.config.entries import Config
from common.errors import UnreadableRecord
from common.failures import Failure
from common.files import write_record
from common.runs import plan, recipes
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.runs.records import LATER
from common.tables.frames import Tables, read_csv
from common.tables.results import READ, TRAINED, Result, Row, read_controls, read_results, rows_of
from common.tables.writing import write_tables
from tests.conftest import raise_recipe
from tests.synthetic import cost_of, plain_counts, rewrite, write_scores


@pytest.fixture
def benchmark(tiny: dict) -> Benchmark:
    return plan.benchmark(reading.complete(tiny | {"methods": ["ce", "rmi"]}))


def write(run: TrainedRun) -> None:
    write_scores(run, plain_counts(run, 0.6))
    cost_of(run).write(run.cost)


def results(benchmark: Benchmark) -> dict[str, Result]:
    """Of all runs, whose files are sound before a test changes them, by method."""
    return {result.run.method: result for result in read_results(benchmark)}


@pytest.fixture
def trained(benchmark: Benchmark) -> dict[str, TrainedRun]:
    """All runs, with all their files, by method."""
    runs = {run.method: run for run in benchmark.runs if isinstance(run, TrainedRun)}
    for run in runs.values():
        write(run)
    assert all(result.complete and result.error is None for result in read_results(benchmark))
    return runs


def test_a_record_of_another_run_is_the_reason_of_its_row(
    benchmark: Benchmark, trained: dict[str, TrainedRun]
) -> None:
    trained["rmi"].metrics.write_bytes(trained["ce"].metrics.read_bytes())
    rmi, ce = results(benchmark)["rmi"], results(benchmark)["ce"]
    assert rmi.metrics is None
    assert "does not belong to its folder: its method is ce, not rmi" in (rmi.error or "")
    assert rmi.cost is not None and not rmi.complete and ce.complete


@pytest.mark.parametrize("damage", ["{", "[]", '{"miou": 0.5}', ""])
def test_a_damaged_cost_leaves_the_scores(
    damage: str, benchmark: Benchmark, trained: dict[str, TrainedRun]
) -> None:
    trained["rmi"].cost.write_text(damage)
    rmi = results(benchmark)["rmi"]
    assert rmi.metrics is not None and rmi.cost is None
    assert f"{trained['rmi'].cost} cannot be read" in (rmi.error or "")
    assert f"it was renamed to {trained['rmi'].cost.name}.damaged, and the next" in (rmi.error or "")
    again = results(benchmark)["rmi"]
    assert again.error == rmi.error and not again.unreadable, "it is missing now, and the reason is kept"


def test_records_that_are_older_than_a_score_are_not_edited(
    benchmark: Benchmark, trained: dict[str, TrainedRun]
) -> None:
    rewrite(trained["rmi"].metrics, lambda content: [content.pop(name) for name in LATER])
    rmi, ce = results(benchmark)["rmi"], results(benchmark)["ce"]
    assert not rmi.edited and rmi.metrics and ce.metrics
    assert rmi.metrics.miou_i == ce.metrics.miou_i == pytest.approx(0.6), "as the counts give it"
    for score in (0.9, 0.0):
        rewrite(trained["rmi"].metrics, partial(dict.update, miou_i=score))
        assert results(benchmark)["rmi"].edited == ["miou_i"]


def test_a_score_out_of_range_is_refused(benchmark: Benchmark, trained: dict[str, TrainedRun]) -> None:
    write_scores(trained["rmi"], plain_counts(trained["rmi"], 0.6), miou=60.0)
    assert "miou" in (results(benchmark)["rmi"].error or "")


def test_tables_are_made_of_what_is_sound(benchmark: Benchmark, trained: dict[str, TrainedRun]) -> None:
    trained["rmi"].metrics.write_text("no JSON")
    with pytest.raises(UnreadableRecord, match="files of 1 results are damaged .* All else is in the tables"):
        write_tables(benchmark)
    table = read_csv(benchmark.outputs.results / "leaderboard.csv").set_index("method")
    assert table.loc["ce", "miou_mean"] == pytest.approx(60) and table.loc["rmi", "seeds"] == 0
    assert "cannot be read" in table.loc["rmi", "error"] and not benchmark.outputs.stamp.exists()


def test_a_damaged_record_of_a_failure_is_as_good_as_none(
    benchmark: Benchmark, trained: dict[str, TrainedRun]
) -> None:
    run = trained["rmi"]
    run.metrics.unlink()
    run.error.write_text("{")
    assert results(benchmark)["rmi"].error == "not trained yet"
    write_record(run.error, Failure("no memory", "out of memory", "evaluate", ""))
    assert results(benchmark)["rmi"].error == "evaluate failed: no memory"


def test_a_control_of_another_folder_is_a_row_with_its_reason(benchmark: Benchmark) -> None:
    majority, ceiling = benchmark.groups[0].controls
    write_scores(majority, plain_counts(majority, 0.1))
    write_scores(ceiling, plain_counts(ceiling, 0.9), digest="0123456789")
    rows = {row.method: row for row in read_controls(benchmark)}
    assert rows["majority"].percent("miou") == pytest.approx([10]) and rows["majority"].result.error is None
    assert rows["ceiling"].scores == [] and "does not belong" in (rows["ceiling"].result.error or "")


def test_values_of_a_row(benchmark: Benchmark, trained: dict[str, TrainedRun]) -> None:
    run = trained["rmi"]
    write_scores(run, plain_counts(run, 0.6, boundaries=True), diagnostics={"agreement": 0.5})
    row = next(row for row in rows_of(benchmark, read_results(benchmark)) if row.method == "rmi")
    assert row.values("miou") == pytest.approx([0.6])
    assert row.percent("trimap_miou", "1") == pytest.approx([10])
    assert row.values("trimap_miou", "16") == row.values("trimap_miou", "3") == row.values("ece") == []
    assert row.values("diagnostics", "agreement") == [0.5]
    assert row.trained_as == ("digits", run.model, "rmi") and row.origin == TRAINED
    assert row.entry == run.entry and row.error == ""


def test_predictions_that_are_read_have_no_cost(tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "theirs" / "test"
    folder.mkdir(parents=True)
    (folder / "test-00000.png").write_bytes(b"a PNG")
    entry = {"theirs": {"predictions": str(tmp_path / "theirs" / "{split}")}}
    config: Config = tiny | {"methods": ["ce", "theirs"], "method_options": tiny["method_options"] | entry}
    benchmark = plan.benchmark(reading.complete(config))
    run = benchmark.runs[1]
    assert results(benchmark)["theirs"].error == "not evaluated yet"
    write_record(run.data.error, Failure("no disk", "input", "prepare", ""))
    assert results(benchmark)["theirs"].error == "prepare failed: no disk"
    write_scores(run, plain_counts(run, 0.7))
    assert results(benchmark)["theirs"].complete and results(benchmark)["theirs"].error is None
    row = Row(benchmark.groups[0], "theirs", [results(benchmark)["theirs"]])
    assert (row.origin, row.entry, row.trained_as, row.costs) == (READ, None, None, [])
    text = write_tables(benchmark).read_text()
    assert "| theirs † " in text and f"†: {READ}" in text


def test_tables_are_read_as_they_were_written(
    benchmark: Benchmark, trained: dict[str, TrainedRun], tmp_path: Path
) -> None:
    write_tables(benchmark)
    tables = Tables.read(benchmark.outputs.results)
    tables.write(tmp_path)
    for field in dataclasses.fields(Tables):
        assert getattr(Tables.read(tmp_path), field.name).equals(getattr(tables, field.name))
    assert len(tables.of(*benchmark.groups[0].key).leaderboard) == 2
    assert len(tables.of("digits", "another").leaderboard) == 0


def test_an_older_cost_is_shown_where_there_is_no_newer_one_and_marked(
    benchmark: Benchmark, trained: dict[str, TrainedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = recipes.MEASURING.number
    raise_recipe(monkeypatch, "MEASURING")
    older = results(benchmark)["rmi"]
    assert older.cost is not None and older.cost.recipe == old and older.metrics is not None
    assert not older.complete and older.error == f"measured by recipe {old}, not yet again"
    cost_of(trained["ce"], network_ms=7.0).write(trained["ce"].cost)
    page = write_tables(plan.benchmark(benchmark.configuration))
    ce, rmi = results(benchmark)["ce"], results(benchmark)["rmi"]
    assert ce.complete and ce.cost is not None and (ce.cost.recipe, ce.cost.network_ms) == (old + 1, 7)
    (warning,) = (
        line for line in page.read_text().splitlines() if "measured by recipe" in line and "WARN" in line
    )
    assert f"by recipe {old}, not by that of today" in warning and "measuring is new" in warning
    assert f"rmi (digits, {rmi.run.model})" in warning and "ce (" not in warning
    assert f"measuring {old} and {old + 1}." in page.read_text()
    costs = read_csv(page.parent / "cost.csv").set_index("method")
    assert costs["recipe"].to_dict() == {"ce": old + 1, "rmi": old}
    board = read_csv(page.parent / "leaderboard.csv").set_index("method")
    assert board.loc["rmi", "latency_ms"] > 0 and board["pareto_latency"].isna().all(), "they do not compare"


def test_a_row_shows_costs_of_one_recipe(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny["execution"]["measure"] = "all"
    benchmark = plan.benchmark(reading.complete(tiny | {"seeds": [0, 1]}))
    first, second = benchmark.runs
    assert isinstance(first, TrainedRun) and isinstance(second, TrainedRun)
    cost_of(first, network_ms=100.0).write(first.cost)
    raise_recipe(monkeypatch, "MEASURING")
    cost_of(second, network_ms=7.0).write(second.cost)
    (row,) = rows_of(benchmark, read_results(benchmark))
    assert [cost.network_ms for cost in row.costs] == [7]


def test_a_cost_of_another_recipe_does_not_belong_to_its_file(
    benchmark: Benchmark, trained: dict[str, TrainedRun]
) -> None:
    cost_of(trained["rmi"], recipe=7).write(trained["rmi"].cost)
    assert "recipe 7 measured it" in (results(benchmark)["rmi"].error or "")
