"""CUDA sources of cuda/ for NVIDIA GPUs, compiled by NVRTC (it comes with PyTorch), started by the driver.

Neither nvcc nor a host compiler is needed.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from common.kernels.cache import SOURCES, CompilerError, compiled

FLAGS = ("--std=c++17", "--fmad=true", "--ptxas-options=-v")
SHARED_BY_DEFAULT = 48 * 1024
"""Bytes of shared memory that a block has without the driver being told."""

_BY_VALUE = (ctypes.Structure, ctypes.c_double, ctypes.c_float, ctypes.c_longlong)
_lock = threading.Lock()
_functions: dict[tuple[Any, ...], tuple[Any, int]] = {}
"""Kernels that were started before, and the shared memory that they may use."""


@dataclass(frozen=True)
class Limits:
    """What a GPU has.

    Attributes:
        shared: The most shared memory that a block can have, in bytes.
        processors: How many multiprocessors there are.
    """

    shared: int
    processors: int


def limits(device: torch.device) -> Limits:
    """What the GPU of a device has."""
    return _limits(_index(device))


@cache
def _limits(index: int) -> Limits:
    """As `limits`, for the GPU of that index."""
    properties = torch.cuda.get_device_properties(index)
    shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # PyTorch's stub lacks it
    return Limits(shared, properties.multi_processor_count)


def cubin(name: str, architecture: str, scalar: str, defines: Sequence[str] = ()) -> bytes:
    """The machine code of `cuda/<name>.cu`, compiled at first use and kept on disk. Needs no GPU.

    Args:
        name: The source.
        architecture: Such as `sm_90`.
        scalar: `float` or `double`, what SCALAR stands for.
        defines: Other macros, such as `LABELS=21`.

    Raises:
        CompilerError: NVRTC is missing or refuses the source.
    """
    return _kept(name, architecture, scalar, defines, ".cubin")


def report(name: str, architecture: str, scalar: str, defines: Sequence[str] = ()) -> str:
    """What the assembler says of the registers, the memory and the spills of each kernel; as `cubin`."""
    return _kept(name, architecture, scalar, defines, ".txt").decode()


def _kept(name: str, architecture: str, scalar: str, defines: Sequence[str], suffix: str) -> bytes:
    """The machine code (`.cubin`) of a source or what the assembler says of it (`.txt`)."""
    nvrtc = _bindings("nvrtc")
    version = _checked(nvrtc.nvrtcVersion())
    macros = [f"-D{define}" for define in (f"SCALAR={scalar}", *defines)]
    options = [*FLAGS, f"--gpu-architecture={architecture}", *macros]
    made_from = ["nvrtc", str(version), *options]
    prefix = f"{name}-{architecture}-{scalar}"
    part = (".cubin", ".txt").index(suffix)
    return compiled(prefix, suffix, made_from, lambda: _compile(name, options)[part]).read_bytes()


def loadable(name: str, scalar: str, device: torch.device, defines: Sequence[str] = ()) -> bool:
    """Whether the kernels of a source can be used on a device; if not, warns once."""
    with _lock:
        return _loadable(name, scalar, _index(device), tuple(defines))


@cache
def _loadable(name: str, scalar: str, index: int, defines: tuple[str, ...]) -> bool:
    """As `loadable`, for the GPU of that index; one thread at a time comes in here."""
    try:
        _module(name, scalar, index, defines)
    except (CompilerError, OSError) as error:
        warnings.warn(f"the plain PyTorch version is used, which is slower: {error}", stacklevel=4)
        return False
    return True


def launch(
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
    """Starts a kernel on the device's current stream.

    Args:
        name: The source.
        kernel: The kernel in it.
        scalar: `float` or `double`.
        device: The GPU; all tensors must be on it.
        blocks: How many blocks, along up to three axes.
        shared: Bytes of shared memory per block, at most `limits(device).shared`.
        arguments: Tensors or None for pointers, ints, and ctypes structures and numbers by value.
        threads: How many threads a block has.
        defines: As in `cubin`.

    Raises:
        CompilerError: The kernel cannot be started.
    """
    driver = _bindings("driver")
    index = _index(device)
    x, y, z = grid_of(blocks)
    values, pointers = packed(arguments)
    with nullcontext() if index == torch.cuda.current_device() else torch.cuda.device(index):
        key = (name, kernel, scalar, index, defines)
        function, granted = _functions.get(key, (None, 0))
        if function is None or shared > granted:
            with _lock:
                function, _ = _functions[key] = _function(*key, max(shared, granted))
        stream = torch.cuda.current_stream(index).cuda_stream
        _checked(
            driver.cuLaunchKernel(
                function, x, y, z, threads, 1, 1, shared, stream, ctypes.addressof(pointers), 0
            )
        )
    del values  # not before: the pointers are theirs


def grid_of(blocks: int | tuple[int, ...]) -> tuple[int, int, int]:
    """How many blocks there are along each of three axes."""
    x, y, z, *_ = (*(blocks if isinstance(blocks, tuple) else (blocks,)), 1, 1)
    return x, y, z


def packed(arguments: Sequence[Any]) -> tuple[list[Any], ctypes.Array[ctypes.c_void_p]]:
    """The arguments of a kernel as ctypes has them, and their addresses, which are the driver's to read."""
    values = [_as_argument(argument) for argument in arguments]
    return values, (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))


def _index(device: torch.device) -> int:
    """The index of a GPU."""
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _module(name: str, scalar: str, index: int, defines: tuple[str, ...]) -> Any:
    """A source, compiled and loaded on the GPU of that index."""
    if torch.version.cuda is None:
        raise CompilerError("there are kernels for NVIDIA GPUs only")
    driver = _bindings("driver")
    major, minor = torch.cuda.get_device_capability(index)
    image = cubin(name, f"sm_{major}{minor}", scalar, defines)
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the context current, once
        return _checked(driver.cuModuleLoadData(image))


def _function(
    name: str, kernel: str, scalar: str, index: int, defines: tuple[str, ...], shared: int
) -> tuple[Any, int]:
    """A kernel of a loaded source, and how much shared memory it may use: `shared` at least."""
    driver = _bindings("driver")
    module = _module(name, scalar, index, defines)
    function = _checked(driver.cuModuleGetFunction(module, kernel.encode()))
    if shared <= SHARED_BY_DEFAULT:
        return function, SHARED_BY_DEFAULT
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, attribute, shared))
    return function, shared


def _bindings(name: str) -> Any:
    """The module `nvrtc` or `driver` of cuda-bindings."""
    try:
        if name == "nvrtc":
            from cuda.bindings import nvrtc as module
        else:
            from cuda.bindings import driver as module
    except ImportError as error:
        raise CompilerError(f"the package cuda-bindings cannot be imported ({error})") from error
    return module


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the bindings returned besides its status."""
    status, *values = result
    if int(status):
        raise CompilerError(f"CUDA says {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


def _compile(name: str, options: Sequence[str]) -> tuple[bytes, bytes]:
    """The machine code of `cuda/<name>.cu`, and what the compiler says of it."""
    nvrtc = _bindings("nvrtc")
    headers = sorted(SOURCES.glob("*.h"))
    source = (SOURCES / f"{name}.cu").read_bytes()
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            source,
            f"{name}.cu".encode(),
            len(headers),
            [path.read_bytes() for path in headers],
            [path.name.encode() for path in headers],
        )
    )
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        if int(status):
            raise CompilerError(f"NVRTC refuses {name}.cu: {' '.join(log.decode().split())[:1000]}")
        image = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, image))
        return image, log.rstrip(b"\0 \n") + b"\n"
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _as_argument(argument: Any) -> Any:
    """An argument of a kernel as ctypes takes it: structures and numbers by value, tensors by address."""
    if isinstance(argument, _BY_VALUE):
        return argument
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())
