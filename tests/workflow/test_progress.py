"""What is shown while jobs run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake import logging as messages
from snakemake_interface_logger_plugins.common import LogEvent

from workflow import progress
from workflow.progress import Format, Progress

LOG = "results/models/digits/net/ce/seed1-0123/train.log"


def started(shown: Progress, job: int, rule: str, path: str = LOG) -> None:
    shown.filter(
        SimpleNamespace(event=LogEvent.JOB_INFO, jobid=job, rule_name=rule, log=[path], output=["x"], msg="")
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_jobs_and_the_time_left_are_told(tmp_path: Path, clock: SimpleNamespace) -> None:
    shown = Progress(tmp_path)
    form = Format(shown, messages.DefaultFormatter(set(), False))
    counts = {"train": 4, "evaluate": 4, "total": 8}
    assert shown.filter(SimpleNamespace(event=LogEvent.RUN_INFO, stats=counts, msg=""))
    assert not shown.filter(SimpleNamespace(event=LogEvent.JOB_STARTED, msg="Execute 1 jobs..."))
    assert form.format_progress({"done": 0, "total": 8}) == "0 of 8 jobs done"
    started(shown, 1, "train")
    clock.seconds = 100
    assert form.format_job_finished({"job_id": 1}) == "train ce, seed 1 (digits, net): done in 2 min"
    started(shown, 2, "evaluate", "results/runs/digits/net/ce/seed1-45/evaluate.log")
    clock.seconds = 120
    assert form.format_job_finished({"job_id": 2}) == "evaluate ce, seed 1 (digits, net): done in 20 s"
    # three trainings of 100 s and three scorings of 20 s, one at a time
    assert shown.seconds_left() == pytest.approx(360)
    assert form.format_progress({"done": 2, "total": 8}) == "2 of 8 jobs done, about 6 min left"
    started(shown, 3, "train")
    started(shown, 4, "train")
    clock.seconds = 150
    assert shown.seconds_left() == pytest.approx((360 - 2 * 30) / 2)


def test_jobs_of_which_none_is_done_are_no_trainings(tmp_path: Path, clock: SimpleNamespace) -> None:
    shown = Progress(tmp_path)
    counts = {"prepare": 1, "train": 2, "evaluate": 10}
    shown.filter(SimpleNamespace(event=LogEvent.RUN_INFO, stats=counts, msg=""))
    for job, (rule, end) in enumerate([("prepare", 5), ("train", 105)]):
        assert shown.seconds_left() is None, "nothing is known of trainings"
        started(shown, job, rule)
        clock.seconds = end
        shown.finished(job)
    assert shown.seconds_left() == pytest.approx(100 + 10 * 5)


def test_a_failure_is_its_job_and_its_log(tmp_path: Path) -> None:
    form = Format(Progress(tmp_path), messages.DefaultFormatter(set(), False))
    record = logging.makeLogRecord(
        {
            "event": LogEvent.JOB_ERROR,
            "jobid": 1,
            "rule_name": "train",
            "log": [LOG],
            "shellcmd": "stage train …",
        }
    )
    assert form.format(record) == f"train ce, seed 1 (digits, net): failed; its log: {LOG}"
    group = logging.makeLogRecord({"event": LogEvent.GROUP_ERROR, "job_error_info": [vars(record)] * 2})
    assert form.format(group).splitlines() == [form.format(record)] * 2


def test_a_training_is_told_as_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "models/digits/net/ce/seed1-0123"
    folder.mkdir(parents=True)
    assert progress.training_line(folder, 100) is None
    line = {
        "iteration": 25,
        "loss": 0.51234,
        "learning_rate": 0.1,
        "images_per_second": 87.3,
        "waiting_for_data": 0.0,
        "seconds": 10.0,
    }
    (folder / "training.jsonl").write_text(json.dumps(line) + "\n")
    assert progress.training_line(folder, 100) == (
        25,
        "train ce, seed 1 (digits, net): iteration 25 of 100, loss 0.5123, 87.3 images/s, 30 s left",
    )


def test_snakemake_s_messages_take_this_form(tmp_path: Path) -> None:
    logger = logging.getLogger(messages.__name__)
    handler = logging.StreamHandler()
    handler.setFormatter(messages.DefaultFormatter(set(), False))
    before = logger.handlers
    logger.handlers = [handler]
    try:
        progress.show(tmp_path, lambda folder: None)
    finally:
        logger.handlers = before
    assert isinstance(handler.formatter, Format) and isinstance(handler.filters[0], Progress)
