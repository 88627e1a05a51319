"""Scores that were computed before are taken again as long as counts and code are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import provenance
from common.integrity import StoredFile
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.scoring.counts import SplitCounts
from common.tables import new_counts
from common.tables.remembered import RememberedScores
from common.tables.results import read_results
from tests.synthetic import make_config, plain_counts, write_scores


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    made = plan.benchmark(make_config(tmp_path, methods=["ce", "rmi"]))
    for place, run in enumerate(made.runs):
        write_scores(run, plain_counts(run, 0.4 + 0.1 * place, boundaries=True, probabilities=place < 2))
    return made


def read(benchmark: Benchmark) -> list:
    remembered = RememberedScores.of(benchmark)
    results = read_results(benchmark, remembered.known)
    remembered.save()
    return results


def test_counts_are_read_once(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(benchmark)
    assert first == read_results(benchmark) and all(result.metrics for result in first)
    monkeypatch.setattr(SplitCounts, "read", None)
    assert read(benchmark) == first


def test_other_counts_other_code_and_a_damaged_file_are_not_taken_for_these(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(benchmark)
    run = benchmark.runs[0]
    write_scores(run, plain_counts(run, 0.7))
    assert read(benchmark)[0].metrics.miou == pytest.approx(0.7)
    content = run.per_image.read_bytes()
    run.per_image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not the file that its record tells of" in read(benchmark)[0].error
    file = RememberedScores.of(benchmark).path
    assert len(RememberedScores(file).known) == 5
    monkeypatch.setattr(provenance, "code", lambda: "other")
    assert RememberedScores(file).known == {}
    monkeypatch.undo()
    file.write_bytes(file.read_bytes().replace(b"0.4", b"0.9"))
    assert RememberedScores(file).known == {}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_many_new_results_are_counted_alike_by_other_processes(
    benchmark: Benchmark, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", processes)
    one_by_one: dict = {}
    read_results(benchmark, one_by_one)
    known: dict = {}
    assert new_counts.count_new(benchmark, known) == ({}, {}) and not known  # they are few
    monkeypatch.setattr(new_counts, "FEWEST", 1)
    monkeypatch.setattr(new_counts, "CHUNK", 1)
    benchmark.runs[0].per_image.write_bytes(b"damaged")
    records, compared = new_counts.count_new(benchmark, known)
    assert read_results(benchmark, known, records)[1:] == read_results(benchmark)[1:]
    assert known.items() < one_by_one.items() and len(known) == len(one_by_one) - 1
    for run in benchmark.runs[1:]:
        counts = compared[StoredFile.of(run.per_image).sha256]
        assert counts.names == SplitCounts.read_names(run.per_image)
        expected = SplitCounts.read(run.per_image).compared.ratios
        assert all((counts.ratios[metric] == ratios).all() for metric, ratios in expected.items())
