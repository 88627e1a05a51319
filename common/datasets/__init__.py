"""The datasets, one file each. A new file here is found by itself."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from common.datasets.base import Dataset

__all__ = ["Dataset", "load", "names"]


def names() -> list[str]:
    """The names of all dataset modules, sorted."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name not in ("base", "files", "loading"))


def load(name: str) -> type[Dataset]:
    """The dataset class of the module `common/datasets/<name>.py`."""
    module = importlib.import_module(f"common.datasets.{name}")
    (found,) = (
        member
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, Dataset) and member.__module__ == module.__name__
    )
    return found
