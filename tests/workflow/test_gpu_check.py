"""`make gpu-check`: its steps follow each other whatever becomes of one, and each leaves its page."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/bin/sh
echo "python $*" >>calls
case "$*" in
*pytest*) echo "3 passed"; exit ${TESTS_END:-0} ;;
*kernels*) mkdir -p results/kernels/quick; echo "# Kernels" | tee results/kernels/quick/kernels.md \\
    >results/kernels/quick/step.csv; exit ${KERNELS_END:-0} ;;
esac
"""

SNAKEMAKE = """#!/bin/sh
echo "snakemake $*" >>calls
mkdir -p results/gpu-check/camvid
printf '# Leaderboard\\n\\nrows\\n' >results/gpu-check/camvid/leaderboard.md
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository whose programs are pretended."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "workflow").mkdir()
    shutil.copy(ROOT / "workflow/gpu_check.sh", tmp_path / "workflow")
    for name, text in (("python", PYTHON), ("snakemake", SNAKEMAKE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def check(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CAMVID_ROOT"}
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | variables
    command = [str(folder / "workflow/gpu_check.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_step_leaves_its_page(folder: Path) -> None:
    ended = check(folder, "mine.yaml", CAMVID_ROOT="/data")
    assert ended.returncode == 0 and not ended.stderr
    pages = {path.name: path.read_text() for path in (folder / "results/gpu-check").glob("*.*")}
    assert {*pages} == {"tests.md", "kernels.md", "step.csv", "camvid.md"}
    assert pages["tests.md"].startswith("# Tests marked gpu\n") and pages["tests.md"].endswith("3 passed\n")
    assert pages["camvid.md"].startswith("# CamVid") and pages["camvid.md"].endswith("\n\nrows\n")
    assert "camvid_gpu.yaml mine.yaml --config" in (folder / "calls").read_text()


def test_a_step_that_fails_keeps_none_from_running(folder: Path) -> None:
    ended = check(folder, TESTS_END="1", KERNELS_END="124")
    assert ended.returncode == 1
    assert "tests failed" in ended.stderr and "kernels failed" in ended.stderr
    assert "CAMVID_ROOT is not set" in ended.stderr
    assert (folder / "results/gpu-check/kernels.md").read_text() == "# Kernels\n"
