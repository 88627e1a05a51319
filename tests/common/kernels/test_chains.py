"""Kernels are compiled once, kept on disk, shared by processes, and done without where they cannot be."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.kernels import cache, decomposition, gpu, layout
from common.kernels.cache import CompilerError
from common.kernels.chains import Grid
from methods.ddcrf import dual_decomposition, dual_decomposition_factored
from tests.conftest import ROOT

USE = """
import sys, warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from methods.ddcrf import dual_decomposition, dual_decomposition_reference
    problem = torch.ones(1, 2, 3, 3), [torch.ones(1, 2, 2, 3, 2)], [torch.ones(1, 2, 2, 2, 3)]
    results = [dual_decomposition(*problem).logits for _ in range(2)]
    torch.testing.assert_close(results[0], dual_decomposition_reference(*problem).logits)
print(*(w.message for w in caught if "plain PyTorch" in str(w.message)), sep="\\n")
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


KERNELS = {"weigh", "messages", "marginals", "agree", "messages_backward", "collect", "scores_backward"}


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_cuda_kernels_compile_without_a_gpu(folder: Path, architecture: str, scalar: str) -> None:
    image = gpu.cubin("chain", architecture, scalar)
    assert image.startswith(b"\x7fELF")
    for kernel in KERNELS:
        assert kernel.encode() in image
    assert [path.read_bytes() for path in folder.iterdir()] == [image]


def test_what_nvrtc_refuses_is_said(folder: Path) -> None:
    with pytest.raises(CompilerError, match=r"NVRTC refuses chain.cu: .*gpu-architecture"):
        gpu.cubin("chain", "sm_1", "float")


# The CUDA source, run by threads of the CPU


@pytest.fixture(scope="module")
def warps(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if not shutil.which("g++"):
        pytest.skip("there is no g++ on this machine")
    library = tmp_path_factory.mktemp("warps") / "warp.so"
    flags = ["-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", "-DSCALAR=double", f"-I{ROOT / 'cuda'}"]
    subprocess.run(["g++", *flags, str(Path(__file__).with_name("warp.cpp")), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class GridOfWarps(Grid):
    """A grid on the CPU that takes itself to be on a GPU."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.on_gpu = True


@pytest.mark.parametrize(("k", "h", "w"), [(3, 4, 6), (34, 2, 3)])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize(
    ("gamma", "learned", "accelerate"),
    [
        (1.5, False, False),
        (1.5, True, False),
        (-1.0, False, False),
        (1.5, False, True),
        (0.01, False, False),  # weights do not do
    ],
)
def test_the_cuda_source_computes_the_same_as_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    warps: ctypes.CDLL,
    gamma: float,
    learned: bool,
    accelerate: bool,
    factored: bool,
    k: int,
    h: int,
    w: int,
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.double)

    unary = draw(2, k, h, w)
    scores = [draw(2, k, k, h, w - g) for g in (1, 2)] + [draw(2, k, k, h - g, w) for g in (1, 2)]
    if factored:
        scores = [draw(2, k, k, h, w) for _ in range(2)]
    weights, falling = draw(2, k, h, w), draw(2)

    def outputs() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (unary, *scores)]
        soft = torch.tensor(gamma, dtype=torch.double, requires_grad=learned)
        options = {"iterations": 2, "gamma": soft, "accelerate": accelerate}
        if factored:
            result = dual_decomposition_factored(*leaves, **options)
        else:
            result = dual_decomposition(leaves[0], leaves[1:3], leaves[3:], **options)
        total = (result.logits * weights).sum() + (result.dual * falling).sum()
        by = [*leaves, soft] if learned else leaves
        return [result.logits, result.dual, *torch.autograd.grad(total, by)]

    def launch(
        _: str, kernel: str, scalar: str, device: torch.device, blocks: int, shared: int, arguments: tuple
    ) -> None:
        launched.add(kernel)
        assert scalar == "double" and shared <= 8 << 15
        pointers = [
            ctypes.byref(x)
            if isinstance(x, ctypes.Structure)
            else x
            if isinstance(x, ctypes.c_double)
            else ctypes.c_int(x)
            if isinstance(x, int)
            else ctypes.c_void_p(None if x is None else x.data_ptr())
            for x in arguments
        ]
        getattr(warps, f"run_{kernel}")(blocks, *pointers)

    launched: set[str] = set()
    expected = outputs()
    monkeypatch.setattr(layout, "lanes", lambda device, dtype: 1)
    monkeypatch.setattr(decomposition, "Grid", GridOfWarps)
    monkeypatch.setattr(gpu, "launch", launch)
    for x, y in zip(outputs(), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    assert launched == KERNELS
