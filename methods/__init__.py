"""The methods, one file each. A new file here is found by itself."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.base import Method

__all__ = ["Method", "load", "names"]


def __getattr__(name: str) -> Any:
    """Offers `Method` without importing PyTorch before it is asked for."""
    if name == "Method":
        return importlib.import_module(f"{__name__}.base").Method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def names() -> list[str]:
    """The names of all method modules, sorted."""
    folder = Path(__file__).parent
    return list(_names(folder, folder.stat().st_mtime_ns))


@lru_cache(maxsize=1)
def _names(folder: Path, changed: int) -> list[str]:
    """The names for one state of the folder: they are asked for with every run of a configuration.

    Args:
        folder: Where the methods are.
        changed: When it was last changed, in nanoseconds.
    """
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("base", "__init__"))


def load(name: str) -> type[Method]:
    """The method class of the module `methods/<name>.py`.

    Raises:
        LookupError: The module defines no subclass of `Method`, or several.
        Exception: Whatever importing the module raises.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    from methods.base import Method  # imports PyTorch

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
