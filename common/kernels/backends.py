"""Which kernels the chains of a problem have: those of the CPU, those of a GPU, or none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch

from common.kernels import cpu, gpu, gpu_chains, layout
from common.kernels.batch import Batch
from common.kernels.chains import Grid
from common.kernels.gpu_batch import GpuBatch
from common.kernels.gpu_chains import GpuGrid
from common.kernels.layout import NAMES, SCALARS
from common.kernels.packing import MAX_GAPS


def grid(shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, device: torch.device) -> Grid:
    """The passes over the chains of a grid, one by one; arguments as of `Layout`."""
    kind = GpuGrid if layout.on_gpu(device) else Grid
    return kind(shape, gaps, dtype, device)


def batch(
    shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, device: torch.device, factored: bool
) -> Batch | GpuBatch:
    """All iterations of the published update; arguments as of `Batch`."""
    if layout.on_gpu(device):
        return GpuBatch(shape, gaps, dtype, device, factored)
    return Batch(shape, gaps, dtype, factored)


def available(device: torch.device, dtype: torch.dtype, labels: int, gaps: int) -> bool:
    """Whether there are kernels for a problem; compiles them at first use, warns once if it cannot."""
    if dtype not in NAMES:
        return False
    if device.type != "cuda":
        return device.type == "cpu" and _small(labels, gaps, True) and _on_cpu()
    known = len([None] * labels)  # PyTorch's compiler takes the size as a number so, not as a symbol
    return _small(known, gaps, _fits(device, dtype, known)) and _on_gpu(device, dtype, known)


def _small(labels: int, gaps: int, fits: bool) -> bool:
    """Whether a problem whose labels do or do not fit is small enough for the kernels; warns once if not."""
    small = fits and gaps <= MAX_GAPS
    if not small:
        _warn_of_size(labels, gaps)
    return small


@torch.compiler.assume_constant_result
def _fits(device: torch.device, dtype: torch.dtype, labels: int) -> bool:
    """Whether K labels are few enough for the kernels of a GPU."""
    return gpu_chains.fits(labels, dtype, device)


@torch.compiler.assume_constant_result
def _on_gpu(device: torch.device, dtype: torch.dtype, labels: int) -> bool:
    """Whether the kernels for a GPU, a type and K can be loaded; compiles them at first use."""
    return gpu.loadable("chain", SCALARS[dtype], device, gpu_chains.defines(labels))


@torch.compiler.assume_constant_result
def _on_cpu() -> bool:
    """Whether the kernels for the CPU can be loaded; compiles them at first use."""
    return cpu.library("chain") is not None


@cache
def _warn_of_size(labels: int, gaps: int) -> None:
    """Warns once that a problem is too large for the kernels."""
    warnings.warn(
        f"the plain PyTorch version is used, which is slower and needs more memory: {labels} classes and "
        f"{gaps} gaps are too many for the kernels",
        stacklevel=4,
    )
