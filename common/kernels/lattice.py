"""Gaussian filtering of values at scattered points by the permutohedral lattice.

Adams et al. 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", with the constants
and the order of the reference for dense CRFs (Krähenbühl & Koltun 2011, arXiv 1210.5644): values are spread
over the corners of the simplex that their point lies in, blurred with (½, 1, ½) along each of the lattice's
d + 1 directions, and gathered again. It is compiled from C++ on a CPU (`cuda/lattice.cpp`) and from CUDA on a
GPU (`cuda/lattice.cu`); without a compiler, and elsewhere, it is plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.kernels import lattice_cpu, lattice_gpu
from common.kernels.lattice_cpu import CpuLattice
from common.kernels.lattice_gpu import GpuLattice
from common.kernels.lattice_plain import PlainLattice
from common.kernels.transforms import outside

Engine = CpuLattice | GpuLattice | PlainLattice


class Lattice:
    """Lattices around given points, built once for any number of filterings.

    A point's coordinates are in units of the Gaussian's standard deviation. Points of one group do not see
    those of another. Where there is one group alone, it serves any number of images of such points.

    Attributes:
        engine: What computes it.
    """

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: The points, `[groups, P, d]`; computed in float32.

        Raises:
            ValueError: A point is not finite, or they lie so far apart that the lattice's coordinates have
                too many digits.
        """
        with outside(features) as points:
            self.engine = _engine(points.detach().float())

    def normalise(self, before: Tensor | None, after: Tensor | None) -> None:
        """Has every filtering multiply the values by `before`, and what comes out by `after`.

        Args:
            before: A number of each point, float32 `[groups · P]`; None for 1.
            after: The same.
        """
        self.engine.normalise(before, after)

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """The values at the points, each a sum over all points weighted by a Gaussian of their distance.

        Args:
            values: Of all groups, or images, one after the other, `[images · P, C]`, float32 or float64.
            reverse: Whether to filter by the transpose.

        Returns:
            `[images · P, C]`; differentiable by `values` any number of times, in reverse and in forward mode.
        """
        return _Filter.apply(values, self, reverse)


def _engine(features: Tensor) -> Engine:
    """The fastest kind of lattice that can be had for these points."""
    if lattice_cpu.usable(features):
        return CpuLattice(features)
    return GpuLattice(features) if lattice_gpu.usable(features) else PlainLattice(features)


class _Filter(torch.autograd.Function):
    """Filtering as a function with a derivative, which is filtering by the transpose."""

    @staticmethod
    def forward(values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
        return lattice.engine.filter(values, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Lattice, bool], output: Tensor) -> None:
        _, ctx.lattice, ctx.reverse = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.lattice.filter(gradient, not ctx.reverse), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return ctx.lattice.filter(tangent, ctx.reverse)

    @staticmethod
    def vmap(info: Any, dimensions: tuple[Any, ...], values: Tensor, *options: Any) -> tuple[Tensor, int]:
        """Values of several batches are so many more columns."""
        together = values.movedim(dimensions[0], 1).flatten(1)
        return _Filter.apply(together, *options).unflatten(1, (info.batch_size, -1)), 1
