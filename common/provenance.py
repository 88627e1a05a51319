"""How a result came to be: code, packages, device."""

from __future__ import annotations

import hashlib
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

from common.installation import PACKAGE, ROOT, source

if TYPE_CHECKING:
    import torch

CODE = ("common/**/*.py", "methods/**/*.py", "cuda/*.cu", "cuda/*.cuh", "cuda/*.cpp", "cuda/*.h")
"""All code, as patterns."""

COMMIT = "commit"
"""The file of the installed package with the commit that it was built from."""

SHOWING = ("common/tables/", "common/report/")
"""Code that only shows results."""

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
    """The git commit of the code, with `+changes` if code differs from it or is not in it; None outside git.

    Other files, such as results and configurations, do not count. Of the installed package, what it was built
    from.
    """
    if PACKAGE:
        return (ROOT / COMMIT).read_text(encoding="utf-8") or None
    revision = _git("rev-parse", "HEAD")
    patterns = [f":(glob){pattern}" for pattern in CODE]
    if revision and _git("status", "--porcelain", "--untracked-files=all", "--", *patterns):
        revision += "+changes"
    return revision


@cache
def code() -> str:
    """A digest of all code that results come from, committed or not; tables and report are left out."""
    return all_code(SHOWING)


def all_code(left_out: tuple[str, ...] = ()) -> str:
    """A digest of the code as it is now.

    Args:
        left_out: How the paths begin that do not count.
    """
    result = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(left_out):
            result.update(f"{name}\0".encode() + hashlib.sha256(_content(path)).digest())
    return result.hexdigest()[:10]


def _content(path: Path) -> bytes:
    """The content of a file of code, as it is in the checkout."""
    return source(path).encode() if path.suffix == ".py" else path.read_bytes()


def note_code() -> None:
    """Takes note of the code as it is now: that is what records of this process will tell of."""
    commit()
    code()


def forget_code() -> None:
    """Forgets what was noted, in a process that was forked from one that began before."""
    commit.cache_clear()
    code.cache_clear()


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
        commit: The git commit of the code when the process began, with `+changes` if code differed from it or
            was not in it; None outside git.
        packages: Versions of Python and of the packages that results depend on.
        device: The name of the device.
        code: A digest of all code when the process began; None in records that say nothing of it.
    """

    written: str
    commit: str | None
    packages: dict[str, str]
    device: str
    code: str | None = None

    @classmethod
    def now(cls, device: str) -> Provenance:
        """Of a result that is written now, computed on the device of that name."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), commit(), packages(), device, code())
