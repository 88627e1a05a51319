"""What is remembered of methods, so that planning need not import them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import methods
from common.config.memory import recall, remember
from common.config.method_entry import KEYS
from common.config.method_facts import MethodFacts, facts_digest, method_facts
from common.config.options import Option, OptionType, complete_options, options_of
from common.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    method_facts.cache_clear()
    yield tmp_path / "structseg"
    method_facts.cache_clear()


def again(module: str) -> MethodFacts:
    """What another process would be told."""
    method_facts.cache_clear()
    return method_facts(module)


@pytest.mark.parametrize("module", methods.names())
def test_what_is_remembered_is_what_the_class_says(cache: Path, module: str) -> None:
    facts = method_facts(module)
    assert recall(f"methods/{module}-{facts_digest(module)}", MethodFacts) == facts == MethodFacts.of(module)


def test_a_remembered_method_is_not_imported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = method_facts("densecrf")
    monkeypatch.setattr(methods, "load", lambda name: pytest.fail(f"{name} was imported"))
    assert again("densecrf") == facts
    assert facts.trained_as == "ce" and "bilateral" in {option.name for option in facts.options}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"module": "rmi", "trained_as": null, "options": []}']
)
def test_a_damaged_file_is_made_anew(cache: Path, damage: bytes) -> None:
    facts = method_facts("densecrf")
    (file,) = (cache / "methods").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert again("densecrf") == facts
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert again("ce").options == ()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("there is no home")))
    assert again("ce").options == ()
    method_facts.cache_clear()


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, {3}])
def test_what_would_come_back_as_something_else_is_not_remembered(cache: Path, value: Any) -> None:
    option = Option("x", OptionType("any"), False, value)
    remember("methods/x", MethodFacts("x", None, (option,)))
    assert recall("methods/x", MethodFacts) is None


def test_planning_imports_no_pytorch(cache: Path) -> None:
    code = (
        "import sys; from common.config import reading; from common.runs import plan; "
        "plan.benchmark(reading.load([])); sys.exit('torch' in sys.modules)"
    )
    codes = [subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode for _ in range(2)]
    assert codes == [1, 0], "only the first time"


class Example:
    """Options of all types."""

    def __init__(
        self,
        skipped: int,
        number: float,
        choice: Literal["a", "b", 3] = "a",
        several: Sequence[int] = (1, 2),
        maybe: tuple[float, float] | None = None,
        anything: Path | None = None,
        *others: int,
        **more: int,
    ) -> None: ...


OPTIONS = options_of(Example, skip=1)


def test_the_options_of_a_class() -> None:
    assert [option.name for option in OPTIONS] == ["number", "choice", "several", "maybe", "anything"]
    complete = {"number": 2, "choice": "a", "several": [1, 2], "maybe": None, "anything": None}
    assert complete_options("place", {"number": 2.0}, OPTIONS) == complete


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "place: the option number must be given"),
        ({"numbr": 1}, r"place: unknown option 'numbr' \(did you mean number\?\)"),
        ({"number": True}, "place.number: true is not of type float"),
        ({"number": "1"}, "place.number: '1' is not of type float"),
        ({"number": 1, "choice": 4}, r"place.choice: 4 is not of type Literal\['a', 'b', 3\]"),
        ({"number": 1, "several": 4}, r"place.several: 4 is not of type Sequence\[int\]"),
        ({"number": 1, "several": [1, 2.5]}, r"place.several: \[1, 2.5\] is not of type Sequence\[int\]"),
        ({"number": 1, "maybe": ["a"]}, r"place.maybe: \['a'\] is not of type tuple\[float, float\] \| None"),
        ({"number": float("inf")}, "place.number: inf is not a finite number"),
    ],
)
def test_wrong_options_are_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        complete_options("place", values, OPTIONS)


def test_no_option_is_called_like_a_key_of_entries() -> None:
    """A configuration could never set it."""
    names = {(module, option.name) for module in methods.names() for option in method_facts(module).options}
    assert not [name for name in names if name[1] in KEYS]
