"""CUDA sources of cuda/ for NVIDIA GPUs, compiled by NVRTC (it comes with PyTorch), started by the driver.

Neither nvcc nor a host compiler is needed.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from common.kernels.cache import SOURCES, CompilerError, compiled

FLAGS = ("--std=c++17", "--fmad=true")
SHARED_BY_DEFAULT = 48 * 1024
"""Bytes of shared memory that a block has without the driver being told."""

_lock = threading.Lock()


def cubin(name: str, architecture: str, scalar: str) -> bytes:
    """The machine code of `cuda/<name>.cu`, compiled at first use and kept on disk. Needs no GPU.

    Args:
        name: The source.
        architecture: Such as `sm_90`.
        scalar: `float` or `double`, what SCALAR stands for.

    Raises:
        CompilerError: NVRTC is missing or refuses the source.
    """
    nvrtc = _bindings("nvrtc")
    version = _checked(nvrtc.nvrtcVersion())
    options = [*FLAGS, f"--gpu-architecture={architecture}", f"-DSCALAR={scalar}"]
    made_from = ["nvrtc", str(version), *options]
    prefix = f"{name}-{architecture}-{scalar}"
    return compiled(prefix, ".cubin", made_from, lambda: _compile(name, options)).read_bytes()


def loadable(name: str, scalar: str, device: torch.device) -> bool:
    """Whether the kernels of a source can be used on a device; if not, warns once."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with _lock:
        return _loadable(name, scalar, index)


@cache
def _loadable(name: str, scalar: str, index: int) -> bool:
    """As `loadable`, for the GPU of that index; one thread at a time comes in here."""
    try:
        _module(name, scalar, index)
    except (CompilerError, OSError) as error:
        warnings.warn(f"the plain PyTorch version is used, which is slower: {error}", stacklevel=4)
        return False
    return True


def launch(
    name: str,
    kernel: str,
    scalar: str,
    device: torch.device,
    blocks: int,
    shared: int,
    arguments: Sequence[Any],
) -> None:
    """Starts a kernel, one warp per block, on the device's current stream.

    Args:
        name: The source.
        kernel: The kernel in it.
        scalar: `float` or `double`.
        device: The GPU; all tensors must be on it.
        blocks: How many blocks.
        shared: Bytes of shared memory per block.
        arguments: Tensors or None for pointers, ints, and ctypes structures and doubles by value.

    Raises:
        CompilerError: The kernel cannot be started.
    """
    driver = _bindings("driver")
    index = torch.cuda.current_device() if device.index is None else device.index
    values = [_as_argument(argument) for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    with torch.cuda.device(index):
        with _lock:
            function = _function(name, kernel, scalar, index, shared)
        stream = torch.cuda.current_stream(index).cuda_stream
        _checked(
            driver.cuLaunchKernel(
                function, blocks, 1, 1, 32, 1, 1, shared, stream, ctypes.addressof(pointers), 0
            )
        )


@cache
def _module(name: str, scalar: str, index: int) -> Any:
    """A source, compiled and loaded on the GPU of that index."""
    if torch.version.cuda is None:
        raise CompilerError("there are kernels for NVIDIA GPUs only")
    driver = _bindings("driver")
    major, minor = torch.cuda.get_device_capability(index)
    image = cubin(name, f"sm_{major}{minor}", scalar)
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the context current, once
        return _checked(driver.cuModuleLoadData(image))


@cache
def _function(name: str, kernel: str, scalar: str, index: int, shared: int) -> Any:
    """A kernel of a loaded source that may use so much shared memory."""
    driver = _bindings("driver")
    function = _checked(driver.cuModuleGetFunction(_module(name, scalar, index), kernel.encode()))
    if shared > SHARED_BY_DEFAULT:
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, attribute, shared))
    return function


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


def _compile(name: str, options: Sequence[str]) -> bytes:
    """The machine code of `cuda/<name>.cu`."""
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
        if int(status):
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise CompilerError(f"NVRTC refuses {name}.cu: {' '.join(log.decode().split())[:1000]}")
        image = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, image))
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _as_argument(argument: Any) -> Any:
    """An argument of a kernel as ctypes takes it: structures and numbers by value, tensors by address."""
    if isinstance(argument, ctypes.Structure | ctypes.c_double):
        return argument
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p(argument.data_ptr() if isinstance(argument, Tensor) else None)
