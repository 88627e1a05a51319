"""Where the time of jobs goes: what a job records of itself, and what the report says of many."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common import phases
from common.files import digest
from common.phases import COMPUTING, LOADING, PHASES, STARTING, WAITING, WRITING
from common.report.timeline import draw_timeline, in_lanes
from common.report.times_tables import by_device, by_job, times_of, times_tables
from common.runs import plan
from common.runs.records import JobTimes
from tests.synthetic import make_config


def job(began: float, device: str, share: float = 1.0, **seconds: float) -> JobTimes:
    return JobTimes(
        stage="train", digest=f"{began:.0f}", dataset="digits", model="m", method="ce", seed=0, began=began,
        seconds=dict.fromkeys(PHASES, 0.0) | seconds, devices=[device], share=share,
    )  # fmt: skip


def test_every_second_of_a_job_is_in_one_phase(tmp_path: Path) -> None:
    with phases.counted() as clock:
        phases.note_devices(["CPU"], 2)
        with phases.during(LOADING):
            time.sleep(0.02)
            with phases.during(WAITING):
                time.sleep(0.03)
        with phases.during(WRITING):
            time.sleep(0.01)
    JobTimes.of(clock, "train", digest="abc", dataset="digits").write(tmp_path)
    (record,) = JobTimes.read_all(tmp_path)
    for phase, least in ((LOADING, 0.02), (WAITING, 0.03), (WRITING, 0.01), (STARTING, 0.0)):
        assert record.seconds[phase] >= least - 0.001
    total = sum(record.seconds.values())
    assert total == pytest.approx(time.time() - record.began, abs=0.5) and record.seconds[COMPUTING] < total
    assert record.share == 2 and record.devices[0].endswith(": CPU")
    with phases.during(WRITING):  # outside of a job nothing is counted
        pass
    (tmp_path / "times/train-damaged.json").write_text("{")
    assert JobTimes.read_all(tmp_path) == [record]


def test_how_busy_devices_were() -> None:
    """Two jobs share a GPU for 100 s, one has another one after a pause; their machine has jobs for 150 s."""
    times = [
        job(0.0, "n: GPU 0", 0.5, computing=90.0, waiting=10.0),
        job(0.0, "n: GPU 0", 0.5, computing=60.0, writing=40.0),
        job(500.0, "n: GPU 1", computing=25.0, loading=25.0),
        job(500.0, "n: CPU", 2.0, computing=30.0),
        job(0.0, "elsewhere: GPU 0", computing=10.0),
    ]
    cells = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in by_device(times).rows}
    assert cells == {
        "elsewhere: GPU 0": ["1", "0.00", "0.00", "100", "–"],
        "n: CPU": ["1", "0.04", "0.02", "–", "0.4"],
        "n: GPU 0": ["2", "0.04", "0.02", "50", "–"],
        "n: GPU 1": ["1", "0.04", "0.01", "17", "–"],
    }
    (row,) = by_job(times).rows
    assert [cell.text for cell in row.cells[4:]] == ["5", "10.0", "0.0", "25.0", "215.0", "40.0", "290.0"]


def test_jobs_of_other_configurations_and_none_at_all(tmp_path: Path) -> None:
    benchmark = plan.benchmark(make_config(tmp_path))
    assert times_tables(times_of(benchmark)) == [] and draw_timeline([], tmp_path) is None
    results = benchmark.outputs.results
    job(0.0, "n: GPU 0", computing=1.0).write(results)
    assert times_of(benchmark) == []
    run = benchmark.runs[0]
    for verb, code, dataset in (
        ("evaluate", run.digest, run.dataset),
        ("tabulate", digest(benchmark.configuration), ""),
    ):
        JobTimes.of(phases.Clock(), verb, digest=code, dataset=dataset).write(results)
    assert {job.stage for job in times_of(benchmark)} == {"evaluate", "tabulate"}
    assert len(times_tables(times_of(benchmark))[0].rows) == 2


def test_jobs_at_the_same_time_are_in_lines_of_their_own(tmp_path: Path) -> None:
    """The third begins after the first has ended; the fourth after a pause of which a minute is drawn."""
    times = [
        job(1000.0, "n: GPU 0", computing=10.0),
        job(1005.0, "n: GPU 0", loading=2.0, computing=90.0),
        job(1020.0, "n: GPU 0", computing=5.0),
        job(1497.0, "n: GPU 1", waiting=1.0),
    ]
    bars, counts = in_lanes(times)
    assert [(bar.lane, bar.start) for bar in bars] == [(0, 0), (1, 5), (0, 20), (2, 157)]
    assert counts == {"n: GPU 0": 2, "n: GPU 1": 1}
    chart = draw_timeline(times, tmp_path)
    assert chart and "4 jobs on n: GPU 0, n: GPU 1" in chart.alt and (tmp_path / "timeline.pdf").exists()
