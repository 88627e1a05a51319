"""Kernels are compiled once, kept on disk, shared by processes, and done without where they cannot be."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.kernels import cache, gpu, gpu_chains, layout
from common.kernels.cache import CompilerError
from methods.ddcrf import dual_decomposition, dual_decomposition_factored, primal_dual_gap
from tests.common.kernels.emulation import Emulator
from tests.conftest import ROOT

USE = """
import sys, warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from methods.ddcrf import dual_decomposition, dual_decomposition_reference
    problem = torch.ones(1, 2, 3, 3), [torch.ones(1, 2, 2, 3, 2)], [torch.ones(1, 2, 2, 2, 3)]
    results = [dual_decomposition(*problem).logits for _ in range(2)]
    torch.testing.assert_close(results[0], dual_decomposition_reference(*problem).logits)
print(*(w.message for w in caught if "version is used" in str(w.message)), sep="\\n")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "structseg"


def use(**environment: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", USE]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, text=True, stdout=pipe, stderr=pipe)


def test_is_built_once_for_each_content(folder: Path) -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        return b"code"

    paths = [cache.compiled("x", ".so", made_from, build) for made_from in (["a"], ["a"], ["b"], ["ab", ""])]
    assert paths[0] == paths[1] and len({*paths}) == 3 and len(built) == 3
    assert all(path.parent == folder and path.read_bytes() == b"code" for path in paths)


def test_a_failed_build_leaves_nothing(folder: Path) -> None:
    def build() -> bytes:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.compiled("x", ".so", [], build)
    assert not folder.exists() or not [*folder.iterdir()]


def test_nobody_sees_half_a_file(folder: Path) -> None:
    content = b"x" * 1_000_000
    barrier = threading.Barrier(4)
    contents = []

    def work() -> None:
        barrier.wait()
        contents.append(cache.compiled("x", ".so", [], lambda: content).read_bytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == [content] * 4 and len([*folder.iterdir()]) == 1


def test_processes_that_start_together_share_a_library(folder: Path) -> None:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "XDG_CACHE_HOME": str(folder.parent)}
    for process in [use(**environment) for _ in range(2)]:
        output, error = process.communicate()
        assert process.returncode == 0, error
        assert not output.strip()
    assert [path.suffix for path in folder.iterdir()] == [".so"]


@pytest.mark.parametrize("compiler", ["missing", "broken"])
def test_without_a_compiler_the_plain_version_is_used_with_one_warning(
    folder: Path, tmp_path: Path, compiler: str
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    if compiler == "broken":
        (tools / "c++").write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "cannot" >&2; exit 1; }\n')
        (tools / "c++").chmod(0o755)
    process = use(PATH=str(tools), XDG_CACHE_HOME=str(folder.parent))
    output, error = process.communicate()
    assert process.returncode == 0, error
    (line,) = output.strip().splitlines()
    assert ("no C++ compiler was found" if compiler == "missing" else "cannot compile chain.cpp") in line


KERNELS = [
    "weigh",
    "share_out",
    "messages",
    "marginals",
    "agree",
    "messages_backward",
    "collect",
    "scores_backward",
    "totals",
]


@pytest.mark.parametrize(
    ("architecture", "scalar", "labels"), [("sm_80", "double", 40), ("sm_120", "float", 11)]
)
def test_cuda_kernels_compile_without_a_gpu(
    folder: Path, architecture: str, scalar: str, labels: int
) -> None:
    image = gpu.cubin("chain", architecture, scalar, gpu_chains.defines(labels))
    assert image.startswith(b"\x7fELF")
    for kernel in KERNELS:
        assert kernel.encode() in image
    assert [path.read_bytes() for path in folder.iterdir()] == [image]


def test_what_nvrtc_refuses_is_said(folder: Path) -> None:
    with pytest.raises(CompilerError, match=r"NVRTC refuses chain.cu: .*gpu-architecture"):
        gpu.cubin("chain", "sm_1", "float")


# The CUDA source, run on the CPU


TYPES = {16: torch.double, 32: torch.float}
"""The type of the numbers for each number of lanes that walk along a chain."""


@pytest.fixture(scope="module")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Emulator]:
    """Of each number of lanes."""

    def emulator(lanes: int) -> Emulator:
        folder = tmp_path_factory.mktemp("chain")
        return Emulator(folder, "chain", KERNELS, layout.SCALARS[TYPES[lanes]], [f"LANES={lanes}"])

    with ThreadPoolExecutor() as pool:
        return dict(zip(TYPES, pool.map(emulator, TYPES)))


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch, emulators: dict[int, Emulator]) -> Callable[[int], None]:
    """Makes the CPU a GPU with so many bytes of shared memory for a block."""

    def launch(*arguments: Any) -> None:
        emulators[16 if "LANES=16" in arguments[-1] else 32].launch(*arguments)

    def emulate(shared: int) -> None:
        monkeypatch.setattr(layout, "on_gpu", lambda device: True)
        monkeypatch.setattr(gpu, "limits", lambda device: gpu.Limits(shared, 8))
        monkeypatch.setattr(gpu, "launch", launch)

    return emulate


def outputs(
    problem: Sequence[Tensor], gaps: int, factored: bool, gamma: float, learned: bool, **options: Any
) -> list[Tensor]:
    """Logits, the dual, and the derivatives of a weighted sum of them by all inputs."""
    leaves = [x.clone().requires_grad_() for x in problem]
    soft = torch.tensor(gamma, dtype=problem[0].dtype, requires_grad=learned)
    if factored:
        result = dual_decomposition_factored(
            leaves[0], leaves[1], leaves[2], range(1, gaps + 1), gamma=soft, **options
        )
    else:
        result = dual_decomposition(
            leaves[0], leaves[1 : gaps + 1], leaves[gaps + 1 :], gamma=soft, **options
        )
    weights = torch.arange(result.logits.numel()).view_as(result.logits).sin()
    total = (result.logits * weights).sum() + result.dual[0] / 2 - result.dual[-1]
    return [result.logits, result.dual, *torch.autograd.grad(total, [*leaves, soft] if learned else leaves)]


H200, SMALL = 227 * 1024, 2 * 1024
"""Bytes of shared memory: much, and so little that one edge of a few labels is there at a time."""


@pytest.mark.parametrize(
    ("k", "h", "w", "gaps", "factored", "gamma", "shared", "options"),
    [
        (3, 4, 6, 2, True, 1.5, H200, {}),
        (3, 4, 6, 2, False, 1.5, SMALL, {}),
        (3, 4, 6, 2, True, 1.5, SMALL, {"learned": True}),
        (3, 4, 6, 2, False, -1.0, H200, {}),
        (3, 4, 6, 2, False, 1.5, H200, {"accelerate": True}),
        (3, 4, 6, 2, True, -1.0, H200, {"accelerate": True}),
        (3, 4, 6, 2, True, 0.0005, H200, {}),  # weights do not do
        (3, 4, 6, 2, False, 0.02, H200, {}),  # they do for some of the edges
        (1, 1, 1, 1, True, 1.5, H200, {}),
        (1, 2, 3, 2, False, 1.5, H200, {}),
        (2, 1, 9, 3, False, 1.5, H200, {}),
        (4, 3, 5, 9, False, 1.5, H200, {}),  # more gaps than one launch reads
        (11, 3, 12, 2, True, 1.5, H200, {}),
        (16, 3, 4, 2, False, 1.5, H200, {}),
        (17, 3, 4, 2, True, -1.0, H200, {}),
        (21, 3, 9, 2, True, 1.5, 99 * 1024, {}),
        (21, 2, 5, 1, False, 1.5, 8 * 1024, {"learned": True}),
        (33, 2, 4, 2, True, 1.5, H200, {}),
        (40, 2, 3, 2, False, 1.5, H200, {}),
    ],
)
def test_the_cuda_source_computes_the_same_as_the_cpu(
    emulate: Callable[[int], None],
    k: int,
    h: int,
    w: int,
    gaps: int,
    factored: bool,
    gamma: float,
    shared: int,
    options: dict[str, Any],
) -> None:
    generator = torch.Generator().manual_seed(k)
    sizes = [(h, w)] * 2
    if not factored:
        distances = range(1, gaps + 1)
        sizes = [(h, max(0, w - g)) for g in distances] + [(max(0, h - g), w) for g in distances]
    shapes = [(2, k, h, w), *((2, k, k, *size) for size in sizes)]
    problem = [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]
    if factored:  # as a convolution has them in memory
        problem[1:] = [x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for x in problem[1:]]
    dtype = TYPES[16 if k <= 16 else 32]
    options = {"learned": False, "iterations": 2, **options}
    expected = outputs(problem, gaps, factored, gamma, **options)
    emulate(shared)
    actual = outputs([x.to(dtype) for x in problem], gaps, factored, gamma, **options)
    tolerance = 1e-10 if dtype == torch.double else 1e-5
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            x.double(), y, rtol=tolerance, atol=tolerance * (1 + y.detach().norm().item())
        )


def test_what_is_computed_twice_on_a_gpu_is_the_same(emulate: Callable[[int], None]) -> None:
    problem = [torch.randn(2, *size, 3, 5, dtype=torch.double) for size in ((5,), (5, 5), (5, 5))]
    emulate(H200)
    results = [outputs(problem, 2, True, 1.5, False, iterations=3) for _ in range(2)]
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("accelerate", [False, True])
def test_inference_and_its_certificate_are_those_of_the_cpu(
    emulate: Callable[[int], None], accelerate: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 4, 6), (5, 5, 4, 5), (5, 5, 3, 6)]
    unary, row, column = (torch.randn(2, *size, generator=generator, dtype=torch.double) for size in sizes)
    options: dict[str, Any] = {"iterations": 3, "gamma": 1.5, "accelerate": accelerate}

    def results() -> list[Tensor]:
        inference = dual_decomposition(unary, [row], [column], **options)
        certificate = primal_dual_gap(unary, [row], [column], **options)
        return [inference.logits, inference.dual, *vars(certificate).values()]

    expected = results()
    emulate(H200)
    for x, y in zip(results(), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_no_fewer_labels_than_before_fit_into_a_block(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(gpu, "limits", lambda device: gpu.Limits(99 * 1024, 8))
    most = 155 if dtype == torch.float else 109
    assert gpu_chains.fits(most, dtype, torch.device("cuda")) and not gpu_chains.fits(
        2 * most, dtype, torch.device("cuda")
    )
