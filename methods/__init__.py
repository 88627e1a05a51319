"""The methods, one file each. A new file here is found by itself."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from methods.base import Method

__all__ = ["Method", "load", "names"]


def names() -> list[str]:
    """The names of all method modules, sorted."""
    found = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in found if name not in ("base", "__init__"))


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
