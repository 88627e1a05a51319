"""What the compiled GPU kernels take: nothing is put into memory for want of registers. No GPU is needed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from common.kernels import resources
from common.stages import kernels

REPORT = """\
ptxas info    : 32 bytes gmem, 8 bytes cmem[4]
ptxas info    : Compiling entry function 'spilling' for 'sm_86'
ptxas info    : Function properties for spilling
ptxas         .     48 bytes stack frame, 44 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 367.462 ms
ptxas info    : Compiling entry function 'small' for 'sm_86'
ptxas info    : Function properties for small
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""


def test_reads_what_the_assembler_reports() -> None:
    first, second = resources.parsed(REPORT, "chain", "double", ["A=1", "B=2"])
    numbers = (255, 44, 52, 48, 1024, 1)
    assert first == resources.Resources("chain", "spilling", "sm_86", "double", "A=1 B=2", *numbers)
    assert second == resources.Resources("chain", "small", "sm_86", "double", "A=1 B=2", registers=10)


def check(architectures: Sequence[str], scalars: Sequence[str], labels: Sequence[int]) -> None:
    rows = resources.table(architectures, scalars, labels)
    assert {row.source for row in rows} == {*resources.sources()}
    assert {row.architecture for row in rows} == {*architectures}
    assert all(row.registers for row in rows)
    spilling = [row for row in rows if row.spill_stores or row.spill_loads]
    assert not spilling, resources.markdown(spilling)


def test_no_kernel_spills() -> None:
    check(["sm_90"], ["float"], [21])


@pytest.mark.long
def test_no_kernel_spills_anywhere() -> None:
    check(resources.ARCHITECTURES, resources.SCALARS, [2, 11, 16, 17, 19, 21, 60, 64, 65, 150])


def test_the_command_shows_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "table", lambda: resources.parsed(REPORT, "chain", "float"))
    kernels.run(argparse.Namespace(compiled=True))
    assert "| chain    | spilling | sm_86          | float    |" in capsys.readouterr().out
