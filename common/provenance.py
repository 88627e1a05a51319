"""How a result came to be: code, packages, device."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pydensecrf2",
)


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


@cache
def commit() -> str | None:
    """The git commit of the code, with `+changes` if tracked files differ; None outside git."""
    revision = _git("rev-parse", "HEAD")
    if revision and _git("status", "--porcelain", "--untracked-files=no"):
        revision += "+changes"
    return revision


@cache
def packages() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Provenance:
    """The part of every record that says how it came to be.

    Attributes:
        written: When, in ISO 8601.
        commit: The git commit of the code, with `+changes` if tracked files differed; None outside git.
        packages: Versions of Python and of the packages that results depend on.
        device: The name of the device.
    """

    written: str
    commit: str | None
    packages: dict[str, str]
    device: str

    @classmethod
    def now(cls, device: str) -> Provenance:
        """Of a result that is written now, computed on the device of that name."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), commit(), packages(), device)
