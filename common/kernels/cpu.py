"""C++ sources of cuda/ as shared libraries for this CPU."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path

from common.kernels.cache import SOURCES, CompilerError, compiled

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno")
OPTIONAL = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
"""Flags that not every compiler takes, the first set that works is used."""

_lock = threading.Lock()


def library(name: str) -> ctypes.CDLL | None:
    """The source `cuda/<name>.cpp` as a loaded library, compiled at first use and kept on disk.

    Returns:
        The library, or None with one warning where it cannot be compiled or loaded.
    """
    with _lock:
        return _library(name)


@cache
def _library(name: str) -> ctypes.CDLL | None:
    """As `library`, which lets one thread at a time in here."""
    try:
        compiler, version = _compiler()
        made_from = (compiler, version, *FLAGS, str(OPTIONAL), _processor())
        path = compiled(name, ".so", made_from, lambda: _compile(compiler, SOURCES / f"{name}.cpp"))
        return ctypes.CDLL(str(path))
    except (CompilerError, OSError) as error:
        warnings.warn(f"a plain version is used, which is slower: {error}", stacklevel=2)
        return None


def _compiler() -> tuple[str, str]:
    """The path of the C++ compiler, and what it says of its version."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        path = shutil.which(name)
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if version.returncode == 0:
                return path, version.stdout
    raise CompilerError("no C++ compiler was found (install g++, or set CXX)")


def _processor() -> str:
    """What `-march=native` depends on: the processor's model and its instruction sets."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(
        [platform.machine(), platform.processor(), *sorted({x for x in lines if x.startswith(keys)})]
    )


def _compile(compiler: str, source: Path) -> bytes:
    """The content of the shared library of a source."""
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "library.so"
        for optional in OPTIONAL:
            command = [compiler, *FLAGS, *optional, str(source), "-o", str(target)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                return target.read_bytes()
            message = message or result.stderr.strip()
    raise CompilerError(f"{compiler} cannot compile {source.name}: {' '.join(message.split())[:300]}")
