"""`status` says which files are not as they were written, by their sizes or by all that is in them."""

from __future__ import annotations

import pytest

from common.config.entries import Config
from common.runs.benchmark import Benchmark
from common.runs.jobs import Control
from tests.common.damage.contents import command, edit, run_of


def verified(config: Config, capfd: pytest.CaptureFixture) -> tuple[int, str]:
    status = command(config, "status", "--verify")
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err
    return status, output.out + output.err


def test_status_reads_all_files_if_asked_and_changes_none(
    config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture
) -> None:
    status, output = verified(config, capfd)
    assert status == 0 and "All files were read: they are as they were written." in output
    files = sorted(path for path in benchmark.outputs.results.rglob("*") if path.is_file())
    run, other = run_of(benchmark, "bce"), run_of(benchmark, "rmi")
    majority: Control = benchmark.groups[0].controls[0]
    for path in (
        run.training.file,
        run.panel,
        run.labels,
        other.per_image,
        majority.per_image,
        other.data.panel,
    ):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    edit(run.metrics, {"miou": 0.99})
    edit(other.cost, {"latency_ms": 1.0})
    status, output = verified(config, capfd)
    assert status == 2 and "8 files are not as they were written" in output
    assert sorted(path for path in benchmark.outputs.results.rglob("*") if path.is_file()) == files
    assert command(config, "status") == 0, "without reading them, all sizes are right"


def test_status_compares_sizes(config: Config, benchmark: Benchmark, capfd: pytest.CaptureFixture) -> None:
    run = run_of(benchmark, "bce")
    for path in (run.panel, run.labels, run.training.file):
        path.write_bytes(path.read_bytes()[:100])
    run_of(benchmark, "rmi").per_image.unlink()
    assert command(config, "status") == 0
    output = capfd.readouterr().out
    for words in (
        "panel.npz has 100 bytes",
        "labels.zip has 100 bytes",
        "model.pt is smaller than",
        "2 damaged",
    ):
        assert words in output
    assert "per_image.npz is missing" in output
