"""Sources of cuda/ for GPUs, run on the CPU by tests/common/kernels/device.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from common.kernels import gpu
from tests.conftest import ROOT

FLAGS = ("-std=c++20", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-w")


class Emulator:
    """The kernels of a source, which `launch` runs as `common.kernels.gpu.launch` would.

    Attributes:
        launched: The kernels that were run.
    """

    def __init__(
        self, folder: Path, source: str, kernels: Sequence[str], scalar: str, defines: Sequence[str] = ()
    ) -> None:
        """Compiles `cuda/<source>.cu`, or `<source>.cu` in the folder.

        Args:
            folder: For the library.
            source: The name of the source.
            kernels: Those of its kernels that are to be run.
            scalar: What SCALAR stands for.
            defines: Other macros, such as `LABELS=21`.
        """
        if not shutil.which("g++"):
            pytest.skip("there is no g++ on this machine")
        self.scalar = scalar
        self.launched: set[str] = set()
        code = folder / f"{source}.cpp"
        code.write_text(
            f'#include "device.h"\n#include "{source}.cu"\n{" ".join(f"EMULATE({x})" for x in kernels)}\n'
        )
        library = folder / f"{source}-{scalar}.so"
        folders = [f"-I{path}" for path in (Path(__file__).parent, folder, ROOT / "cuda")]
        macros = [f"-D{define}" for define in (f"SCALAR={scalar}", *defines)]
        subprocess.run(["g++", *FLAGS, *folders, *macros, str(code), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.device_fault.restype = ctypes.c_char_p

    def order(self, order: int) -> None:
        """Threads run as they are numbered (0), the other way round (1), or as a seed (2, …) draws."""
        self.library.device_order(order)

    def launch(
        self,
        name: str,
        kernel: str,
        scalar: str,
        device: torch.device,
        blocks: int | tuple[int, ...],
        shared: int,
        arguments: Sequence[Any],
        threads: int = 32,
        defines: tuple[str, ...] = (),
    ) -> None:
        """Runs a kernel to its end; arguments are those of `common.kernels.gpu.launch`."""
        assert scalar == self.scalar
        self.launched.add(kernel)
        values, pointers = gpu.packed(arguments)
        grid = (ctypes.c_uint * 3)(*gpu.grid_of(blocks))
        block = (ctypes.c_uint * 3)(threads, 1, 1)
        getattr(self.library, f"run_{kernel}")(grid, block, ctypes.c_size_t(shared), pointers)
        del values
        fault = self.library.device_fault().decode()
        assert not fault, f"{kernel}: {fault}"
