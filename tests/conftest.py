"""What the tests share: small configurations, and clones of the project to run it in."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings

from common.runs import recipes

# The same examples each time: a suite that fails does so again.
settings.register_profile("structseg", derandomize=True, database=None, deadline=None)
settings.load_profile("structseg")

# Locks of their own: tests that run side by side, and beside a benchmark, wait for nobody's measurements.
os.environ["STRUCTSEG_LOCKS"] = tempfile.mkdtemp(prefix="structseg-locks-")
atexit.register(shutil.rmtree, os.environ["STRUCTSEG_LOCKS"], ignore_errors=True)

ROOT = Path(__file__).resolve().parent.parent

TINY = {
    "datasets": ["digits"],
    "models": ["deeplabv3plus-test_resnet"],
    "methods": ["ce"],
    "seeds": [0],
    "dataset_options": {"digits": {"size": 48, "train_images": 12, "val_images": 2, "test_images": 4}},
    "model_options": {
        "deeplabv3plus-test_resnet": {
            "weights": "none",
            "output_stride": 8,
            "atrous_rates": [1, 2, 3],
            "decoder_channels": 8,
        }
    },
    "method_options": {"crf-1": {"module": "densecrf", "iterations": 1}},
    "training": {"iterations": 4, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.001},
    "execution": {"device": "cpu", "checkpoint_every": 2, "log_every": 1, "quiet_wait": 0},
    "resources": {"cpus": 1},
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU on this machine")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tests run side by side


def raise_recipe(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Adds a line to a recipe of `common.runs.recipes`, by its name there, for the rest of a test."""
    recipe = getattr(recipes, name)
    monkeypatch.setattr(recipes, name, replace(recipe, changes=(*recipe.changes, f"{name.lower()} is new")))


@pytest.fixture
def tiny(tmp_path: Path) -> dict:
    """A configuration that trains in a second, with its results under `tmp_path`."""
    return yaml.safe_load(yaml.safe_dump(TINY)) | {"results": str(tmp_path / "results")}


def examples(page: str, heading: str) -> list[str]:
    """The Python code of a section of a page, block by block.

    Args:
        page: Its path in the project.
        heading: That of the section.
    """
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert blocks, f"{page} has no example below {heading}"
    return blocks


def clone(folder: Path) -> Path:
    """A copy of the project's files, as a fresh clone has them."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder


def run(
    *arguments: str, cwd: Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m …` in `cwd` as a user would, with one thread."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result
