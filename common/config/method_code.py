"""The digest of a method's code, on which its results depend."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common.installation import source

METHODS = Path(__file__).resolve().parents[2] / "methods"
SHARED = ("base", "__init__")
"""The modules of `methods/` that are no methods; they belong to the shared code."""


@cache
def code_digest(module: str) -> str:
    """SHA-256 of a method's code without comments, docstrings and layout.

    The modules of `methods/` that it imports belong to it, and so do others beside `methods/`, such as a file
    of a user's that two methods share; `methods/base.py` and `common/` are shared code.

    Args:
        module: Its name, without `methods.`.
    """
    texts = []
    pending, done = [module], {*SHARED} - {module}
    while pending:
        name = pending.pop()
        path = _file(name)
        if name in done or path is None:
            continue
        done.add(name)
        tree = ast.parse(source(path), filename=str(path))
        texts.append(f"{name}: {_canonical(_without_docstrings(tree))}")
        pending += _imported(tree, _package(name, path))
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def _file(name: str) -> Path | None:
    """The file of a module, if it is code of the user's.

    Args:
        name: Of `methods/` without `methods.`, such as `rmi`; of another folder behind a dot, such as
            `.shared.widths`.
    """
    head, *parts = name.split(".")
    if not name or (not head and parts[0] == "common"):
        return None
    place = METHODS / head if head else METHODS.parent
    place = place.joinpath(*parts)
    files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _package(name: str, path: Path) -> list[str]:
    """The packages that a module lies in, by which its relative imports go."""
    head, *parts = name.split(".")
    full = ["methods", head, *parts] if head else parts
    return full if path.name == "__init__.py" else full[:-1]


def _imported(tree: ast.Module, package: Sequence[str]) -> Iterator[str]:
    """What a module imports, named as in `_file`; much of it is no file of the user's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *(node.module or "").split(".")] if node.module else above
            names = [[*module, alias.name] for alias in node.names] + [[*module]]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for parts in names:
            for length in range(1, len(parts) + 1):
                head, *rest = parts[:length]
                yield ".".join(rest) if head == "methods" else ".".join(["", head, *rest])


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The syntax tree without the texts that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
    return tree


def _canonical(node: Any) -> str:
    """The syntax tree as text that is the same for every version of Python.

    `ast.dump` is not: versions add fields, empty for old code, and change what they leave out.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        inner = ",".join(f"{name}={_canonical(value)}" for name, value in fields)
        return f"{type(node).__name__}({inner})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)
