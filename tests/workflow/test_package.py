"""The package `structseg`: what `pip install .` gives, outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, examples

ALONE = """
import importlib.util

assert not any(map(importlib.util.find_spec, ("methods", "common", "workflow")))
"""

IDENTITY = """
import importlib, json, sys
prefix = sys.argv[1]
config = importlib.import_module(f"{prefix}common.config.reading").load([])
runs = importlib.import_module(f"{prefix}common.runs.plan").benchmark(config).runs
code = importlib.import_module(f"{prefix}common.provenance").all_code()
print(json.dumps([code, [[str(run.folder), str(run.training.folder)] for run in runs]]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed into; what it requires is that of this environment."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("structseg-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True
    )
    return folder / "site"


def run(site: Path, folder: Path, *arguments: str) -> str:
    """What Python prints with the package on its path, in a folder elsewhere."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_functions_are_used_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    blocks = examples("methods/README.md", "Using them in your own code")
    code = re.sub(r"^from methods\b", "from structseg.methods", "".join(blocks), flags=re.MULTILINE)
    assert run(site, tmp_path, "-c", f"{ALONE}{code}\nprint(decided.shape)") == "torch.Size([2, 64, 64])\n"
    assert (site / "structseg/py.typed").exists()


def test_nothing_is_imported_by_a_name_that_the_package_does_not_have(site: Path) -> None:
    wrong = re.compile(r"^\s*(from|import) (common|methods|workflow)\b", re.MULTILINE)
    files = [path for path in (site / "structseg").rglob("*") if path.suffix in (".py", ".smk")]
    assert len(files) > 200
    assert [str(path) for path in files if wrong.search(path.read_text())] == []


def test_results_are_those_of_the_checkout(site: Path, tmp_path: Path) -> None:
    """They lie in the same folders, and are made by the same code."""
    installed, checkout = (
        json.loads(run(place, tmp_path, "-c", IDENTITY, prefix))
        for place, prefix in ((site, "structseg."), (ROOT, ""))
    )
    assert installed == checkout


def test_the_command_knows_its_files(site: Path, tmp_path: Path) -> None:
    command = str(site / "bin/structseg")
    assert "camvid_cpu" in run(site, tmp_path, command, "list", "presets")
    assert "18 runs" in run(site, tmp_path, command, "check", "config")
    assert run(site, tmp_path, command, "check", "method", "ce").count("ok") > 10
    assert "camvid_cpu.yaml" in run(site, tmp_path, command, "run", "--preset", "camvid_cpu", "-n", "-q")


def test_what_it_requires_is_what_the_checkout_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = (ROOT / "requirements.txt").read_text()

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[=<>]", line)[0] for line in lines}

    lines = [line for line in pinned.splitlines() if line and not line.startswith("#")]
    assert names(lines) == names([*project["dependencies"], *extras["densecrf"]])


@pytest.mark.long
def test_a_benchmark_runs_from_the_package(site: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY | {"methods": ["ce"], "results": "results"}))
    command = [str(site / "bin/structseg"), "run", "--configfile", "tiny.json", "--cores", "1"]
    run(site, tmp_path, *command)
    assert "| ce" in (tmp_path / "results/leaderboard.md").read_text()
    assert (tmp_path / "results/report.html").exists()
