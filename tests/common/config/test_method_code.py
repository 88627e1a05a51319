"""The digest of a method's code: what changes it, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import method_code

CODE = '''"""A method."""
from methods.base import Method


class Example(Method):
    """Says what it is."""

    def __init__(self, k, c, a: float = 1.0):
        """Says more."""
        super().__init__(k, c)  # a comment
        self.a = a
'''


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(method_code, "METHODS", tmp_path)
    method_code.code_digest.cache_clear()
    (tmp_path / "example.py").write_text(CODE)
    (tmp_path / "other.py").write_text("A = 1\n")
    yield tmp_path / "example.py"
    method_code.code_digest.cache_clear()


def digest_of(path: Path, text: str) -> str:
    path.write_text(text)
    method_code.code_digest.cache_clear()
    return method_code.code_digest("example")


@pytest.mark.parametrize(
    "same",
    [
        CODE.replace("# a comment", "# another"),
        CODE.replace("Says more.", "Says less."),
        CODE.replace('"""Says what it is."""', "pass").replace("\n    pass\n", "\n"),
        CODE.replace("\n\n\n", "\n\n\n\n"),
        CODE.replace("(k, c)  #", "(\n            k,\n            c,\n        )  #"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(code: Path, same: str) -> None:
    assert digest_of(code, same) == digest_of(code, CODE)


@pytest.mark.parametrize("old_new", [("1.0", "2.0"), ("self.a = a", "self.a = -a"), ("self.a", "self.b")])
def test_code_counts(code: Path, old_new: tuple[str, str]) -> None:
    assert digest_of(code, CODE.replace(*old_new)) != digest_of(code, CODE)


@pytest.mark.parametrize(
    "line",
    [
        "from methods.other import A",
        "from methods import other",
        "import methods.other",
        "from .other import A",
    ],
)
def test_imported_methods_count(code: Path, line: str) -> None:
    before = digest_of(code, f"{line}\n{CODE}")
    (code.parent / "other.py").write_text("A = 2\n")
    assert digest_of(code, f"{line}\n{CODE}") != before
    (code.parent / "other.py").write_text("A = 1  # as before\n")
    assert digest_of(code, f"{line}\n{CODE}") == before


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("from widths import A", "widths.py"),
        ("import shared.widths", "shared/widths.py"),
        ("from shared import widths", "shared/widths.py"),
        ("from shared import A", "shared/__init__.py"),
        ("from shared.widths import A", "shared/__init__.py"),
        ("from methods.parts.widths import A", "methods/parts/widths.py"),
        ("from .parts import A", "methods/parts/__init__.py"),
        ("from methods.parts import A", "methods/parts/widths.py"),
    ],
)
def test_modules_beside_the_methods_count(
    line: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "methods/example.py"
    monkeypatch.setattr(method_code, "METHODS", code.parent)
    for name in ("shared/__init__.py", "methods/parts/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("from .widths import A\n")
        path.with_name("widths.py").write_text("A = 1\n")
    (tmp_path / "widths.py").write_text("A = 1\n")
    before = digest_of(code, f"{line}\n{CODE}")
    (tmp_path / file).write_text("A = 2\n")
    assert digest_of(code, f"{line}\n{CODE}") != before


def test_the_digest_is_the_same_on_every_version_of_python(code: Path) -> None:
    """A value that was computed with Python 3.11; 3.12 and 3.13 changed the syntax tree's dump."""
    assert digest_of(code, CODE)[:12] == "47a395248753"
