"""Records with values that cannot be, or that are not those of the counts: each costs its row alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.runs.benchmark import Benchmark
from common.runs.records import Cost, Metrics
from common.scoring.stored_scores import computed
from common.tables.bootstrap import Bootstrap
from common.tables.leaderboard import comparison_table
from common.tables.notes import notes
from common.tables.results import read_controls, read_results, rows_of
from tests.common.damage.contents import METHODS, edit, run_of

METRICS: list[tuple[dict[str, Any], str]] = [
    ({"miou": -5}, "cannot be read"),
    ({"miou": 1.5}, "cannot be read"),
    ({"miou": "0.5"}, "cannot be read"),
    ({"miou": None}, "cannot be read"),
    ({"miou": float("nan")}, "cannot be read"),
    ({"miou": float("inf")}, "cannot be read"),
    ({"images": -1}, "cannot be read"),
    ({"images": 10**30}, "cannot be read"),
    ({"wall_seconds": -1.0}, "cannot be read"),
    ({"peak_memory": -1}, "cannot be read"),
    ({"iou": [1, 2]}, "cannot be read"),
    ({"files": {}}, "does not tell of per_image.npz"),
    ({"files": None}, "cannot be read"),
    ({"files": {"per_image.npz": {"size": 5, "sha256": "0"}}}, "not the 5 that its record tells of"),
    ({"trained": None}, "is of another model"),
    ({"trained_as": "ce"}, "is of another model"),
    ({"dataset": "camvid"}, "its dataset is camvid"),
    ({"model": "x"}, "its model is x"),
    ({"method": "ce"}, "its method is ce"),
    ({"seed": 1}, "its seed is 1"),
    ({"digest": "0123456789"}, "its digest is 0123456789"),
    ({"evaluation": {"split": "val", "scales": [1.0], "flip": False}}, "its evaluation is"),
]
"""Values of `metrics.json` that cannot be, and what is said of them."""
EDITED: list[dict[str, Any]] = [
    {"miou": 0.99},
    {"images": 5},
    {"pixel_accuracy": 0.5},
    {"boundary_iou": 0.9},
    {"boundary_f": None},
    {"ece": 0.0},
    {"nll": 0.1},
    {"iou": {"background": 1.0}},
    {"iou": {}},
    {"trimap_miou": {"1": 0.9}},
    {"boundary_iou_per_class": {}},
    {"boundary_f_per_class": {"0": 1.0}},
    {"reliability": None},
]
"""Scores that can be, but are not those of the counts."""


@pytest.mark.parametrize(("changes", "reason"), METRICS)
def test_metrics_that_cannot_be_are_the_reason_of_their_row(
    changes: dict[str, Any], reason: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    edit(run.metrics, changes)
    by_method = {result.run.method: result for result in read_results(benchmark)}
    assert by_method["bce"].metrics is None and reason in (by_method["bce"].error or "")
    assert all(by_method[method].complete for method in METHODS if method != "bce")


@pytest.mark.parametrize(
    "key", [key for key, value in Metrics.__dataclass_fields__.items() if key != "diagnostics"]
)
def test_a_record_that_lacks_a_key_is_the_reason_of_its_row_or_without_effect(
    key: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    before = Metrics.read(run)
    content = json.loads(run.metrics.read_text())
    del content[key]
    run.metrics.write_text(json.dumps(content))
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    if result.metrics:
        assert replace(result.metrics, **{key: getattr(before, key)}) == before
        assert getattr(result.metrics, key) == getattr(before, key) or key in OF_PROVENANCE
    else:
        assert str(run.metrics) in (result.error or "")


OF_PROVENANCE = ("recipe", "method_module", "method_code", "method_options", "model_options", "predictions")
"""What no number in a table comes from."""


@pytest.mark.parametrize("changes", EDITED)
def test_an_edited_score_has_no_effect_but_a_warning(changes: dict[str, Any], benchmark: Benchmark) -> None:
    before = read_results(benchmark)
    path = run_of(benchmark, "bce").metrics
    edit(path, changes)
    after = read_results(benchmark)
    assert [result.metrics for result in after] == [result.metrics for result in before]
    rows = rows_of(benchmark, after)
    (warning,) = (note for note in notes(rows, [], _nothing()) if "its counts give" in note)
    assert str(path) in warning and f"something else of {', '.join(changes)} than its counts give" in warning


def _nothing() -> Any:
    """No comparisons."""
    return comparison_table([], "ce", Bootstrap(None))


def test_an_edited_control_has_no_effect_but_a_warning(benchmark: Benchmark) -> None:
    before = read_controls(benchmark)
    edit(benchmark.groups[0].controls[0].metrics, {"miou": 0.99})
    after = read_controls(benchmark)
    assert [row.scores for row in after] == [row.scores for row in before]
    assert [*after[0].result.edited] == ["miou"]


COST: list[tuple[dict[str, Any], str]] = [
    ({"latency_ms": -5.0}, "cannot be read"),
    ({"latency_ms": 0.0}, "cannot be read"),
    ({"latency_ms": 1.0}, "latency_ms is not the median of its timings"),
    ({"network_ms": 999.0}, "network_ms is not the median"),
    ({"refine_ms": 7.0}, "refine_ms is not the median"),
    ({"structure_p95_ms": -1.0}, "cannot be read"),
    ({"training_step_ms": 1.0}, "training_step_ms is not the median"),
    ({"training_timings": []}, "no timings of training_step_ms"),
    ({"inference_timings": {}}, "no timings of network_ms"),
    ({"training_images_per_second": 0.0}, "a time is zero"),
    ({"parameters": -1}, "cannot be read"),
    ({"parameters": 10**30}, "cannot be read"),
    ({"throughput": float("nan")}, "cannot be read"),
    ({"recipe": 99}, "recipe 99 measured it"),
    ({"digest": "0"}, "its digest is 0"),
    ({"method": "ce"}, "its method is ce"),
    ({"state_sha256": "0" * 64}, "of two models that were trained alike"),
    ({"load": 5}, "cannot be read"),
]
"""Values of a cost that cannot be, and what is said of them."""


@pytest.mark.parametrize(("changes", "reason"), COST)
def test_costs_that_cannot_be_are_the_reason_of_their_row(
    changes: dict[str, Any], reason: str, benchmark: Benchmark
) -> None:
    edit(run_of(benchmark, "bce").cost, changes)
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.cost is None and result.metrics is not None and reason in (result.error or "")
    assert not result.complete


def test_every_flipped_bit_of_a_record_is_noticed(benchmark: Benchmark) -> None:
    """A number stays one if a digit becomes another; and a text is none any more if it is no UTF-8."""
    run = run_of(benchmark, "bce")
    names = run.data.dataset.class_names
    records: dict[Path, Callable[[], tuple[Any, Any]]] = {
        run.cost: lambda: (Cost.read(run), []),
        run.metrics: lambda: computed(Metrics.read(run), run.folder, names),
        run.data.path: lambda: (run.data.manifest(), []),
    }
    random = np.random.default_rng(0)
    for path, read in records.items():
        whole, before = path.read_bytes(), read()
        for place in random.choice(len(whole) - 1, 150, replace=False):  # behind the last bracket all is one
            data = bytearray(whole)
            data[place] ^= 1 << int(random.integers(8))
            path.write_bytes(data)
            try:
                record, edited = read()
            except UserError:
                continue
            assert edited or (record, edited) == before, (path, place)
        path.write_bytes(whole)


def test_what_no_counts_give_is_edited_with_a_warning(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    run.metrics.write_text(run.metrics.read_text().replace('"wall_seconds": ', '"wall_seconds": 9'))
    (result,) = (result for result in read_results(benchmark) if result.run == run)
    (warning,) = (note for note in notes(rows_of(benchmark, [result]), [], _nothing()) if "checksum" in note)
    assert f"WARNING: {run.metrics} is not as it was written" in warning and result.complete


def test_an_edited_cost_is_the_reason_of_its_row(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    before = Cost.read(run).throughput
    run.cost.write_text(
        run.cost.read_text().replace(f'"throughput": {before}', f'"throughput": {2 * before}')
    )
    (result,) = (result for result in read_results(benchmark) if result.run == run)
    assert result.cost is None
    assert f"{run.cost} is not as it was written (its checksum" in (result.error or "")


def test_rows_of_models_that_differ_are_pointed_out(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "crf-1")
    trained = json.loads(run.metrics.read_text())["trained"] | {"state_sha256": "1" * 64}
    edit(run.metrics, {"trained": trained})
    edit(run.cost, {"state_sha256": "1" * 64})
    rows = rows_of(benchmark, read_results(benchmark))
    (warning,) = (note for note in notes(rows, [], _nothing()) if "trained alike" in note)
    assert "rows of the models of ce" in warning and "ce and crf-1" in warning
