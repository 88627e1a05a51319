"""The default benchmark, killed again and again, against one that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import clone

pytestmark = pytest.mark.long

KILLS = 10
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--quiet", "rules"]
TRAIN = "-m common train"


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / "chaos.log").open("ab") as log:
        return subprocess.Popen(
            [*SNAKEMAKE, *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(folder: Path, *arguments: str) -> None:
    assert start(folder, *arguments).wait() == 0, (folder / "chaos.log").read_text()[-3000:]


def processes(folder: Path, command: str) -> list[int]:
    """The processes of the benchmark in `folder` that have some words in their command."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f" {command} " in words and (entry / "cwd").resolve() == folder:
                numbers.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return numbers


def disturb(folder: Path, process: subprocess.Popen[bytes], choice: random.Random) -> str:
    """Kills something; says what, or nothing if there was nothing of the kind."""
    what = choice.choice(["main", "all", "training", "training", "asked"])
    if what == "main":
        process.kill()  # its jobs live on
    elif what == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif trainings := processes(folder, TRAIN):
        os.kill(choice.choice(trainings), signal.SIGTERM if what == "asked" else signal.SIGKILL)
    else:
        return ""
    return what


def test_a_benchmark_that_is_killed_ten_times_ends_with_the_same_leaderboard(tmp_path: Path) -> None:
    choice = random.Random(0)
    for name in ("quiet", "disturbed"):
        (tmp_path / name).mkdir()
        clone(tmp_path / name)
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    began = time.monotonic()
    finish(quiet)
    pause = (time.monotonic() - began) / KILLS
    kills: list[str] = []
    process = start(disturbed, "--retries", "3")
    while len(kills) < KILLS:
        deadline = time.monotonic() + choice.uniform(0.2, 0.8) * pause
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        assert process.returncode != 0, "it was done before it was disturbed ten times"
        if process.returncode is None:
            if what := disturb(disturbed, process, choice):
                kills.append(what)
        else:
            finish(disturbed, "--unlock")
            process = start(disturbed, "--retries", "3")
    process.wait()
    deadline = time.monotonic() + 600
    while processes(disturbed, TRAIN):  # those that have outlived their workflow
        assert time.monotonic() < deadline
        time.sleep(1)
    finish(disturbed, "--unlock")
    finish(disturbed)
    print(f"killed: {', '.join(kills)}")
    assert {"main", "all"} & set(kills) and {"training", "asked"} & set(kills)
    tables = [pd.read_csv(folder / "results/leaderboard.csv") for folder in (quiet, disturbed)]
    timed = [name for name in tables[0] if name.endswith(("_ms", "_s", "per_second", "bytes"))]
    timed += [name for name in tables[0] if name.startswith(("pareto", "throughput", "best_batch", "peak"))]
    pd.testing.assert_frame_equal(*(table.drop(columns=timed) for table in tables))
    models = sorted(path.relative_to(quiet) for path in quiet.glob("results/models/*/*/*/*/model.pt"))
    assert models
    for model in models:
        one, other = (torch.load(folder / model, weights_only=True) for folder in (quiet, disturbed))
        for part in ("network", "method_state"):
            assert all(torch.equal(value, other[part][key]) for key, value in one[part].items()), model
