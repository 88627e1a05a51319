"""The command that compares two result folders."""

from __future__ import annotations

from pathlib import Path

from common.config import reading
from common.runs import plan
from tests.conftest import ROOT, run
from tests.synthetic import plain_counts, write_scores


def test_what_changed_is_printed(tiny: dict, tmp_path: Path) -> None:
    config = reading.complete(tiny | {"methods": ["ce", "rmi"]})
    for job in plan.runs(config):
        write_scores(job, plain_counts(job, 0.6))
    folder = config["results"]
    result = run("common", "compare", folder, folder, cwd=ROOT)
    assert "0 of 2 rows changed" in result.stdout and "| identical " in result.stdout
    result = run("common", "compare", folder, str(tmp_path / "nowhere"), cwd=ROOT, check=False)
    assert result.returncode == 2 and "nowhere has no results" in result.stderr
