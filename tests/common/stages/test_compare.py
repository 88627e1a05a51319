"""The command that compares two result folders."""

from __future__ import annotations

from pathlib import Path

from common.config import reading
from common.runs import plan
from tests.conftest import ROOT, run
from tests.synthetic import metrics_of, plain_scores


def test_what_changed_is_printed(tiny: dict, tmp_path: Path) -> None:
    config = reading.complete(tiny | {"methods": ["ce", "rmi"]})
    for job in plan.runs(config):
        metrics_of(job, **plain_scores(0.6)).write(job.metrics)
    folder = config["results"]
    result = run("common", "compare", folder, folder, cwd=ROOT)
    assert "0 of 2 rows changed" in result.stdout and "| no counts per image " in result.stdout
    result = run("common", "compare", folder, str(tmp_path / "nowhere"), cwd=ROOT, check=False)
    assert result.returncode == 2 and "nowhere has no results" in result.stderr
