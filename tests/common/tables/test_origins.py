"""What tables say of where rows come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.provenance import Provenance
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.tables.origins import origin_notes
from common.tables.results import read_controls, read_results, rows_of
from tests.synthetic import PROVENANCE, facts_of, make_config, plain_counts, write_scores

A, B = "a" * 40, "b" * 40


def origin(**changes: Any) -> Provenance:
    return dataclasses.replace(PROVENANCE, **changes)


def notes(folder: Path, *runs: Mapping[str, Any], controls: Mapping[str, Any] | None = None) -> list[str]:
    """The notes of runs with some values each: `own` of the scores, `trained` and `earlier` of the models."""
    benchmark = plan.benchmark(make_config(folder))
    for run, values in zip(benchmark.runs, runs):
        assert isinstance(run, TrainedRun)
        facts = facts_of(
            run.training,
            provenance=values.get("trained", PROVENANCE),
            earlier=values.get("earlier", []),
            **values.get("facts", {}),
        )
        write_scores(run, plain_counts(run, 0.5), provenance=values.get("own", PROVENANCE), trained=facts)
    for control in benchmark.groups[0].controls if controls else ():
        write_scores(control, plain_counts(control, 0.2), **(controls or {}))
    return origin_notes(rows_of(benchmark, read_results(benchmark)), read_controls(benchmark))


SAME: list[tuple[Provenance, ...]] = [
    (PROVENANCE, PROVENANCE),
    (origin(code="1"), origin(code="1")),
    (origin(code="1", commit=A), origin(code="1", commit=B)),  # a commit of other files
    (origin(code="1", commit=A + "+changes"), origin(code="1", commit=B)),  # changes that were committed
    (origin(packages={"torch": "2", "scipy": "1"}), origin(packages={"torch": "2", "scipy": "2"})),
    (origin(device="a CPU, 2 threads"), origin(device="another CPU, 2 threads")),
    (origin(device="a GPU"), origin(device="another GPU")),
]


@pytest.mark.parametrize("origins", SAME)
def test_rows_of_the_same_origin_are_no_warning(origins: tuple[Provenance, ...], tmp_path: Path) -> None:
    one, two = origins
    lines = notes(tmp_path, {"own": one, "trained": one}, {"own": two, "trained": two})
    assert not [line for line in lines if "WARNING" in line]


OTHER: list[tuple[dict[str, Any], str]] = [
    ({"own": origin(commit=B)}, "made by different code: aaaaaaaaaa, bbbbbbbbbb."),
    ({"trained": origin(commit=B)}, "made by different code: aaaaaaaaaa, bbbbbbbbbb."),
    ({"earlier": [origin(commit=B)]}, "made by different code: aaaaaaaaaa, bbbbbbbbbb."),
    ({"own": origin(commit=A + "+changes")}, "made by different code: aaaaaaaaaa, aaaaaaaaaa+changes."),
    ({"own": origin(commit=None, code="12")}, "made by different code: None (code 12), aaaaaaaaaa."),
    ({"own": origin(packages={"torch": "2.15"})}, "different versions of torch (2.14, 2.15)."),
    ({"own": origin(packages={"torch": "2.14", "timm": "1"})}, "different versions of timm (1, none)."),
    ({"trained": origin(packages={"torch": "2.14", "numpy": "2"})}, "versions of numpy (2, none)."),
    (
        {"own": origin(packages={"torch": "2.14", "torchvision": "1"})},
        "different versions of torchvision (1, none).",
    ),
    (
        {"own": origin(packages={"torch": "2.14", "segmentation-models-pytorch": "1"})},
        "different versions of segmentation-models-pytorch (1, none).",
    ),
    ({"facts": {"recipe": 0}}, "made by different recipes, which do not compare: training 0 and "),
]


@pytest.mark.parametrize(("values", "sentence"), OTHER)
def test_rows_of_other_origins_are_pointed_out(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (line,) = [line for line in notes(tmp_path, {}, values) if line.startswith("WARNING")]
    assert sentence in line


def test_uncommitted_changes_are_told_apart_in_one_commit(tmp_path: Path) -> None:
    one, two = (origin(commit=A + "+changes", code=code) for code in ("11", "22"))
    lines = notes(tmp_path, {"own": one, "trained": one}, {"own": two, "trained": two})
    assert (
        "WARNING: rows were made by different code: aaaaaaaaaa+changes (code 11), aaaaaaaaaa+changes "
        "(code 22)." in lines
    )
    lines = notes(tmp_path, {"own": one, "trained": one}, {"own": one, "trained": one})
    assert "The code had uncommitted changes: aaaaaaaaaa+changes (code 11)." in lines


@pytest.mark.parametrize(("key", "verb"), [("own", "scored"), ("trained", "trained")])
def test_numbers_of_threads_are_told(key: str, verb: str, tmp_path: Path) -> None:
    one, two = ({key: origin(device=f"a CPU, {count} threads")} for count in (2, 16))
    lines = notes(tmp_path, one, two)
    assert (
        f"WARNING: rows were {verb} on CPUs with different numbers of threads (2, 16): equal runs differ by "
        "rounding." in lines
    )


def test_controls_of_other_code_are_pointed_out(tmp_path: Path) -> None:
    lines = notes(tmp_path, {}, controls={"provenance": origin(commit=B)})
    assert "WARNING: rows were made by different code: aaaaaaaaaa, bbbbbbbbbb." in lines
