"""The datasets, one file each. A new file here is found by itself."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from common.datasets.base import Dataset
from common.installation import source

__all__ = ["Dataset", "load", "names"]


def names() -> list[str]:
    """The names of all dataset modules, sorted.

    A dataset module defines a class that comes from `Dataset` and is not abstract. The files are read for
    that, not imported.
    """
    folder = Path(__file__).parent
    return list(_names(folder, folder.stat().st_mtime_ns))


@lru_cache(maxsize=1)
def _names(folder: Path, changed: int) -> list[str]:
    """The names for one state of the folder: they are asked for many times while a configuration is checked.

    Args:
        folder: Where the datasets are.
        changed: When it was last changed, in nanoseconds.
    """
    classes = [(path.stem, name, parents) for path in folder.glob("*.py") for name, parents in _classes(path)]
    derived = {Dataset.__name__}
    while further := {name for _, name, parents in classes if derived & parents} - derived:
        derived |= further
    return sorted({module for module, _, parents in classes if derived & parents and "ABC" not in parents})


def _classes(path: Path) -> Iterator[tuple[str, set[str]]]:
    """The classes that a module defines, each with the names of its base classes."""
    tree = ast.parse(source(path), str(path))
    imports = {
        alias.asname or alias.name: alias.name
        if str(node.module).startswith(("abc", "common.datasets"))
        else f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [
                ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases
            ]
            yield node.name, {imports.get(base, base.rpartition(".")[2]) for base in bases}


def load(name: str) -> type[Dataset]:
    """The dataset class of the module `common/datasets/<name>.py`.

    Raises:
        LookupError: The module defines no dataset, or several.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, Dataset) and member.__module__ == module.__name__
    ]
    if len(classes) != 1:
        listed = ", ".join(sorted(member.__name__ for member in classes)) or "none"
        raise LookupError(f"common/datasets/{name}.py must define exactly one dataset, and has {listed}")
    return classes[0]
