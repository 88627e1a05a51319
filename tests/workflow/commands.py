"""What the workflow tests share: the tiny benchmark, and Snakemake as a user calls it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import TINY, run

MODEL = "deeplabv3plus-test_resnet"
CONFIG = TINY | {
    "methods": ["ce", "bce", "crf-1"],
    "training": {"per_dataset": {"digits": TINY["training"] | {"warmup": 0}}},  # over those of config.yaml
}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("snakemake", "--cores", "2", "--configfile", "tiny.yaml", *arguments, cwd=folder, check=check)


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """How many jobs of each rule a dry run plans."""
    text = snakemake(folder, "-n", *arguments).stdout
    counts = re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}


def planned_runs(folder: Path, *arguments: str) -> set[tuple[str, str]]:
    """(rule, method) of the jobs that a dry run plans."""
    text = snakemake(folder, "-n", *arguments).stdout
    return set(re.findall(r"rule (\w+):.*?wildcards: .*?method=([^,\s]+)", text, flags=re.DOTALL))
