"""The verb `check`: a line per check, and exit status 2 if one fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.stages import check, entry
from common.training.contract import CHECKS
from tests.common.training.test_contract import FOCAL


def run(*names: str) -> None:
    entry.enter(check, "check", "Checks methods", ["method", *names, "--threads", "1"])


def test_what_keeps_the_contract_has_a_line_per_check(
    own_method: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    own_method(FOCAL)
    run("methods/own.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS) and all(line.startswith("ok  ") for line in lines)
    assert lines[0] == "ok  can be loaded"


def test_what_breaks_it_is_told_and_ends_with_2(
    own_method: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    own_method(FOCAL.replace("weighted.sum()", "-weighted.sum()"))
    with pytest.raises(SystemExit) as ended:
        run("own")
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert (
        "no  loss prefers the truth\n    methods/own.py: loss does not prefer the truth: it is -"
        in output.out
    )
    assert "ok  void changes nothing" in output.out
    assert output.err == "structseg: checks have failed: 1 of methods/own.py (see above)\n"


def test_what_cannot_be_loaded_is_told_once(
    own_method: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    own_method("class Own(:")
    with pytest.raises(SystemExit) as ended:
        run("own", "ce")
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert "no  can be loaded\n    methods/own.py cannot be loaded: SyntaxError" in output.out
    assert output.out.count("methods/own.py\n") == 1 and output.out.count("ok  ") == len(CHECKS)


def test_a_name_of_none_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("rmmi")
    assert ended.value.code == 2
    assert "check method: unknown module of methods/ 'rmmi' (did you mean rmi?)" in capsys.readouterr().err
