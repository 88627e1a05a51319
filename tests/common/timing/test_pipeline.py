"""The benchmark of whole jobs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from common.config import reading
from common.stages.kernels import families
from common.timing import kernel_benchmark, pipeline, quiet
from common.timing.cases import QUICK

pytestmark = pytest.mark.long


def test_jobs_are_timed_beside_the_work_in_them(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(pipeline, "QUICK_EXTENT", pipeline.Extent(steps=3, seeds=2))
    monkeypatch.setattr(kernel_benchmark, "copy_speed", lambda device: 1e9)
    family = {"pipeline": families(reading.complete(tiny), cpu)["pipeline"]}
    kernel_benchmark.run(tmp_path, family, cpu, QUICK, False, quiet.Watch(cpu, alone=True, waited=0))
    table = pd.read_csv(tmp_path / "pipeline.csv").set_index(["work", "version"])
    assert (table["seconds"] > 0).all() and "note" not in table
    assert table.loc[("start", "a training of one step"), "job_over_reference"] > 1
    assert table.loc[("training, 3 steps", "the job"), "job_over_reference"] > 1
    assert ("planning, 2 runs", "snakemake -n") in table.index
    assert not Path(tiny["results"]).exists()
