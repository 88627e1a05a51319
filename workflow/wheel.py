"""Builds the package `structseg` for `pip install .`: the folders of the checkout, below `structseg/`.

Hatchling calls it (`pyproject.toml`). In the package, lines that import what is ours say so
(`common/installation.py`); nothing else differs from the checkout.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import installation, provenance

CONTENTS = (
    "Snakefile",
    "config.yaml",
    "common/**/*.py",
    "cuda/*",
    "methods/*.py",
    "results/reference/*.csv",
    "workflow/*.py",
    "workflow/stage.sh",
    *(f"workflow/{folder}/**/*" for folder in ("presets", "profiles", "report", "rules", "schemas")),
)
"""What is in the package, as patterns."""

ABOUT = (
    '"""Structured-output methods for semantic segmentation, their kernels, and the benchmark of them."""\n'
)

PATHS = ("sys.path.insert(0, str(ROOT))", "sys.path.insert(0, str(ROOT.parent))")
"""The line that has the workflow find the code, in the checkout and in the package."""


class PackageHook(BuildHookInterface[Any]):
    """Puts the package together in a folder of its own, which ends with the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling calls it before it builds a wheel.

        Args:
            version: The kind of wheel: `standard` or `editable`.
            build_data: Takes what goes into the wheel from where.

        Raises:
            ValueError: It is to be editable: the checkout itself is that.
        """
        if version == "editable":
            raise ValueError(
                "structseg cannot be installed editable: its folders would be packages called methods and "
                "common in your environment; work in the checkout, where `make` installs what it needs"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="structseg-"))
        package = self.folder / installation.NAME
        for path in _files(Path(self.root)):
            place = package / path.relative_to(self.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".py", ".smk"):
                place.write_text(_packaged(path), encoding="utf-8")
            else:
                shutil.copy(path, place)
        (package / "__init__.py").write_text(ABOUT, encoding="utf-8")
        (package / "py.typed").touch()
        (package / provenance.COMMIT).write_text(provenance.commit() or "", encoding="utf-8")
        build_data["force_include"][str(package)] = installation.NAME

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Hatchling calls it when the wheel is written; arguments as of `initialize`."""
        shutil.rmtree(self.folder)


def _files(root: Path) -> Iterator[Path]:
    """The files of the package, as they lie in the checkout."""
    for pattern in CONTENTS:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts and path != Path(__file__):
                yield path


def _packaged(path: Path) -> str:
    """The text of a module or of rules as it stands in the package."""
    text = path.read_text(encoding="utf-8")
    if path.name == "common.smk":
        if text.count(PATHS[0]) != 1:
            raise ValueError(f"{path} has another way to find the code: adapt {Path(__file__).name}")
        text = text.replace(*PATHS)
    return installation.packaged(text)
