"""`workflow/stage.sh`: how rules call the door, tried on a stand-in for Python."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "workflow/stage.sh"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Tells its arguments and its PYTHONPATH, then does what the variable DO says."""
    path = tmp_path / "a python"
    path.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\necho "PYTHONPATH=$PYTHONPATH"\neval "${DO:-}"\n')
    path.chmod(0o755)
    return path


def command(python: Path, text: str) -> list[str]:
    """What Snakemake runs for a rule with this command."""
    script = [SCRIPT, python, "a config.json", ROOT, "common"]
    return ["bash", "-c", f"source {shlex.join(map(str, script))}; {text}"]


def call(python: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command(python, text), env=inherited | environment, cwd=python.parent, capture_output=True, text=True
    )


def test_a_stage_is_a_verb_of_the_door(python: Path, tmp_path: Path) -> None:
    result = call(python, "stage train 'a log' --dataset 'a b' --seed 0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    words = ["-m", "common", "train", "--configfile", "a config.json", "--dataset", "a b", "--seed", "0"]
    assert (tmp_path / "a log").read_text().splitlines() == [*words, f"PYTHONPATH={ROOT}"]


@pytest.mark.parametrize("theirs", ["/home/me/lib", "/a b:/c"])
def test_a_user_s_pythonpath_is_kept(python: Path, theirs: str) -> None:
    result = call(python, "shown status log", PYTHONPATH=theirs)
    assert result.stdout.splitlines()[-1] == f"PYTHONPATH={ROOT}:{theirs}"


def test_what_is_shown_is_in_the_log_too(python: Path, tmp_path: Path) -> None:
    result = call(python, "shown estimate log", DO="exit 3")
    assert result.returncode == 3
    assert result.stdout == (tmp_path / "log").read_text() != ""


def test_the_end_of_the_log_of_a_failed_stage_is_shown(python: Path, tmp_path: Path) -> None:
    result = call(python, "stage train log && echo done", DO="seq 30; exit 2")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.splitlines() == [str(number) for number in range(11, 31)]


def test_what_a_user_must_know_is_shown_although_all_went_well(python: Path) -> None:
    result = call(
        python, "stage train log && echo done", DO="echo one; echo structseg: kept; echo structseg two"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "structseg: kept\n")


def test_a_shell_that_is_asked_to_end_waits_for_its_stage(python: Path, tmp_path: Path) -> None:
    """A scheduler tells all processes of a job; the stage saves its state first."""
    action = "trap 'sleep 0.5; touch saved; exit 143' TERM; touch begun; while true; do sleep 0.1; done"
    process = subprocess.Popen(
        command(python, "stage train log"),
        env=os.environ | {"DO": action},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 1
    assert (tmp_path / "saved").exists()
