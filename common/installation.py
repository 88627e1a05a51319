"""Where the code lies: in a checkout, or installed by `pip install .` as the package `structseg`.

In the package the folders of the checkout lie below `structseg/`, and their lines that import each other say
so (`from structseg.methods.base import Method`). Whatever a result depends on is read as it stands in the
checkout: so both give the same folders of results.

Nothing but the standard library is imported here: the build of the package uses it, too.
"""

from __future__ import annotations

import re
from pathlib import Path

NAME = "structseg"
"""The name of the package."""

ROOT = Path(__file__).resolve().parents[1]
"""The folder with `methods/`, `common/`, `cuda/` and `workflow/`."""

PACKAGE = "" if __name__.startswith("common.") else f"{NAME}."
"""What the names of modules begin with: nothing in a checkout."""

IMPORTED_FROM = ROOT.parent if PACKAGE else ROOT
"""The folder that must be on Python's path for the code to be imported."""

MODULE = f"{PACKAGE}common"
"""What `python -m` is told to run a verb."""

_FOLDERS = "(common|methods|workflow)"
_PACKAGING = (
    (re.compile(rf"^(\s*)from {_FOLDERS}(?=[. ])", re.MULTILINE), rf"\1from {NAME}.\2"),
    (re.compile(rf"^(\s*)import {_FOLDERS}$", re.MULTILINE), rf"\1from {NAME} import \2"),
)
_UNPACKAGING = (
    (re.compile(rf"^(\s*)from {NAME}\.{_FOLDERS}(?=[. ])", re.MULTILINE), r"\1from \2"),
    (re.compile(rf"^(\s*)from {NAME} import {_FOLDERS}$", re.MULTILINE), r"\1import \2"),
)


def packaged(text: str) -> str:
    """The text of a module as it stands in the package."""
    for pattern, replacement in _PACKAGING:
        text = pattern.sub(replacement, text)
    return text


def source(path: Path) -> str:
    """The text of a module as it stands in the checkout.

    Args:
        path: Its file, here or there.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is not in UTF-8.
    """
    text = path.read_text(encoding="utf-8")
    for pattern, replacement in _UNPACKAGING if PACKAGE else ():
        text = pattern.sub(replacement, text)
    return text


def checkout_name(module: str) -> str:
    """The name of a module as it is in the checkout."""
    return module.removeprefix(PACKAGE)
