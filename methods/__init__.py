"""The methods, one file each. A new file here is found by itself."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from pathlib import Path

from methods.base import Method

__all__ = ["Method", "load", "names"]


def names() -> list[str]:
    """The names of all method modules, sorted."""
    folder = Path(__file__).parent
    return list(_names(folder, folder.stat().st_mtime_ns))


@lru_cache(maxsize=1)
def _names(folder: Path, _: int) -> list[str]:
    """The same for one state of the folder: it is asked for with every run of a configuration."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("base", "__init__"))


def load(name: str) -> type[Method]:
    """The method class of the module `methods/<name>.py`.

    Raises:
        LookupError: The module defines no subclass of `Method`, or several.
        Exception: Whatever importing the module raises.
    """
    module = importlib.import_module(f"methods.{name}")
    classes = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, Method)
        and member.__module__ == module.__name__
        and not member.__name__.startswith("_")
    ]
    if len(classes) != 1:
        listed = ", ".join(sorted(member.__name__ for member in classes)) or "none"
        raise LookupError(f"it must define exactly one subclass of Method, and has {listed}")
    return classes[0]
