"""What the compiled GPU kernels take of a multiprocessor: registers, memory, and spills. Needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from itertools import product

from tabulate import tabulate

from common.kernels import gpu, gpu_chains
from common.kernels.cache import SOURCES

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
"""A100; RTX 30; RTX 40 and L40; H100 and H200; B200."""

SCALARS = ("float", "double")

LABELS = (11, 21)
"""Numbers of classes, CamVid's and VOC's: the chains' kernels are compiled for one each."""

_KERNEL = re.compile(r"Compiling entry function '(?P<kernel>\w+)' for '(?P<architecture>\w+)'")
_NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"Used (\d+) registers",
        r"(\d+) bytes spill stores",
        r"(\d+) bytes spill loads",
        r"(\d+) bytes stack frame",
        r"(\d+) bytes smem",
        r"used (\d+) barriers",
    )
)
"""Of the fields of `Resources` from `registers` on, in their order."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        source: The file of `cuda/`, without its suffix.
        kernel: Its name.
        architecture: Of the GPU, such as `sm_90`.
        scalar: The type of its numbers.
        macros: What else it was compiled with.
        registers: Of a thread.
        spill_stores: Bytes of registers that a thread has to put into memory.
        spill_loads: Bytes that it gets back.
        stack: Bytes of memory of a thread's own.
        shared: Bytes of shared memory of a block that the source fixes; the launch may add others.
        barriers: Of a block.
    """

    source: str
    kernel: str
    architecture: str
    scalar: str
    macros: str
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0
    shared: int = 0
    barriers: int = 0


def sources() -> list[str]:
    """The names of the GPU sources in `cuda/`."""
    return sorted(path.stem for path in SOURCES.glob("*.cu"))


def table(
    architectures: Sequence[str] = ARCHITECTURES,
    scalars: Sequence[str] = SCALARS,
    labels: Sequence[int] = LABELS,
) -> list[Resources]:
    """What every kernel of every source takes; compiles what is not kept on disk, several at a time.

    Args:
        architectures: Of GPUs.
        scalars: Types of numbers.
        labels: Numbers of classes.

    Raises:
        CompilerError: NVRTC is missing or refuses a source.
    """
    asked = [
        (source, architecture, scalar, macros)
        for source in sources()
        for architecture, scalar in product(architectures, scalars)
        for macros in _macros(source, labels)
    ]
    with ThreadPoolExecutor() as pool:
        reports = pool.map(lambda one: gpu.report(*one), asked)
        return [
            row
            for (source, _, scalar, macros), text in zip(asked, reports)
            for row in parsed(text, source, scalar, macros)
        ]


def _macros(source: str, labels: Sequence[int]) -> list[tuple[str, ...]]:
    """What a source is compiled with, each time."""
    return [gpu_chains.defines(k) for k in labels] if source == "chain" else [()]


def parsed(report: str, source: str, scalar: str, macros: Sequence[str] = ()) -> list[Resources]:
    """What a report of the assembler says of every kernel of a source.

    Args:
        report: What it prints with `-v`.
        source: The name of the source.
        scalar: The type of numbers that it was compiled for.
        macros: What else it was compiled with.
    """
    starts = [*_KERNEL.finditer(report)]
    ends = [*(start.start() for start in starts[1:]), len(report)]
    return [
        Resources(
            source,
            start["kernel"],
            start["architecture"],
            scalar,
            " ".join(macros),
            *_numbers(report[start.end() : end]),
        )
        for start, end in zip(starts, ends)
    ]


def _numbers(text: str) -> Iterator[int]:
    """The numbers that a report says of a kernel, 0 where it says none, as `Resources` has them."""
    for pattern in _NUMBERS:
        match = pattern.search(text)
        yield int(match[1]) if match else 0


def markdown(rows: Sequence[Resources]) -> str:
    """The table to be read."""
    headers = [field.name.replace("_", " ") for field in fields(Resources)]
    return tabulate(map(astuple, rows), headers=headers, tablefmt="github")
