"""The digest of a method's code, on which its results depend."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

METHODS = Path(__file__).resolve().parents[2] / "methods"
SHARED = ("base", "__init__")
"""The modules of `methods/` that are no methods; they belong to the shared code."""


@cache
def code_digest(module: str) -> str:
    """SHA-256 of a method's code without comments, docstrings and layout.

    The modules of `methods/` that it imports belong to it; `methods/base.py` is shared code.

    Args:
        module: Its name, without `methods.`.
    """
    texts = []
    pending, done = [module], {*SHARED} - {module}
    while pending:
        name = pending.pop()
        if name in done:
            continue
        done.add(name)
        path = METHODS / f"{name}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        texts.append(f"{name}: {_canonical(_without_docstrings(tree))}")
        pending += _imported_methods(tree)
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def _imported_methods(tree: ast.Module) -> Iterator[str]:
    """The modules of `methods/` that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            head, _, name = node.module.partition(".")
            names = [name] if name else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # from .rmi import …, from . import rmi
            head, names = "methods", [node.module or alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            paths = [alias.name.partition(".") for alias in node.names]
            head, names = "methods", [name for package, _, name in paths if package == "methods"]
        else:
            continue
        if head == "methods":
            yield from (name for name in names if (METHODS / f"{name}.py").is_file())


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
