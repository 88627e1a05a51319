"""The permutohedral lattice on the CPU, compiled from `cuda/lattice.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.kernels import cpu
from common.kernels.lattice_plain import NOT_FINITE, TOO_FAR

NAMES = {torch.float32: "float32", torch.float64: "float64"}

LARGEST = 6
"""The most dimensions of points that the source is compiled for."""


class Arrays(ctypes.Structure):
    """`Lattice` in cuda/lattice.cpp."""

    _fields_ = [
        ("corners", ctypes.c_int),
        ("groups", ctypes.c_longlong),
        ("points", ctypes.c_longlong),
        ("first", ctypes.c_void_p),
        ("gather", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("neighbours", ctypes.c_void_p),
        ("before", ctypes.c_void_p),
        ("after", ctypes.c_void_p),
    ]


class Updates(ctypes.Structure):
    """`Updates` in cuda/lattice.cpp."""

    _fields_ = [
        ("lattices", ctypes.c_int),
        ("matrices", ctypes.c_int),
        ("iterations", ctypes.c_int),
        ("marginals", ctypes.c_int),
        ("images", ctypes.c_longlong),
        ("labels", ctypes.c_longlong),
    ]


def usable(features: Tensor) -> bool:
    """Whether a lattice of such points can be compiled."""
    return (
        features.device.type == "cpu"
        and 0 < features.shape[2] <= LARGEST
        and features.shape[0] * features.shape[1] * (features.shape[2] + 1) < 2**31
        and cpu.library("lattice") is not None
    )


class CpuLattice:
    """A lattice of each group of points; `Lattice` of common/kernels/lattice.py has the meaning of all."""

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: The points, float32 `[groups, P, d]`.

        Raises:
            ValueError: The points are too far apart, or not finite.
        """
        self.groups, self.points, d = features.shape
        self.corners = d + 1
        entries = (self.groups * self.points, self.corners)
        self.gather = torch.empty(entries, dtype=torch.int32)
        self.weights = torch.empty(entries, dtype=torch.float32)
        sizes = torch.empty(self.groups, dtype=torch.int64)
        status = ctypes.c_int()
        options = (ctypes.c_longlong(self.groups), ctypes.c_longlong(self.points), d)
        results = [_address(x) for x in (self.gather, self.weights, sizes)]
        library = _library()
        library.build.restype = ctypes.c_void_p
        features = features.contiguous()
        built = library.build(_address(features), *options, *results, ctypes.byref(status), _threads())
        if status.value:
            library.take(ctypes.c_void_p(built), None)
            raise ValueError(NOT_FINITE if status.value == 2 else TOO_FAR)
        self.first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.size = int(self.first[-1])
        self.neighbours = torch.empty(self.size, self.corners, 2, dtype=torch.int32)
        library.take(ctypes.c_void_p(built), _address(self.neighbours))
        self.before: Tensor | None = None
        self.after: Tensor | None = None

    def normalise(self, before: Tensor | None, after: Tensor | None) -> None:
        """Has every filtering multiply by these numbers of each point, float32 `[groups · P]`."""
        self.before, self.after = (None if x is None else x.contiguous() for x in (before, after))

    def filter(self, values: Tensor, reverse: bool) -> Tensor:
        """The values `[images · P, C]` filtered, without a derivative."""
        values = values.contiguous()
        result = torch.empty_like(values)
        images, columns = len(values) // self.points, values.shape[1]
        function = getattr(_library(), f"filter_{NAMES[values.dtype]}")
        function(
            ctypes.byref(self.arrays()),
            int(reverse),
            _address(values),
            _address(result),
            ctypes.c_longlong(images),
            ctypes.c_longlong(columns),
            _threads(),
        )
        return result

    def arrays(self) -> Arrays:
        """What C++ is given."""
        tensors = (self.first, self.gather, self.weights, self.neighbours, self.before, self.after)
        return Arrays(self.corners, self.groups, self.points, *map(_address, tensors))


def mean_field(
    lattices: Sequence[CpuLattice],
    unary: Tensor,
    weights: Tensor | tuple[float, ...],
    iterations: int,
    marginals: bool,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Mean-field updates with all lattices, without a derivative.

    Args:
        lattices: Of the images' pixels.
        unary: Scores of the labels, `[N, K, P]`.
        weights: Of each lattice, a number, or matrices `[lattices, K, K]`.
        iterations: How many.
        marginals: Whether the result is their softmax.
        keep: Whether to return the marginals before each update too.

    Returns:
        Scores or marginals `[N, K, P]`, and, if they are kept, marginals `[iterations, N · P, K]`.
    """
    unary = unary.contiguous()
    matrices = isinstance(weights, Tensor)
    numbers = torch.as_tensor(weights, dtype=unary.dtype).contiguous()
    images, labels, points = unary.shape
    scores = torch.empty_like(unary)
    kept = unary.new_empty(iterations, images * points, labels) if keep else None
    options = (int(matrices), iterations, int(marginals))
    updates = Updates(len(lattices), *options, images, labels)
    arrays = (Arrays * len(lattices))(*(lattice.arrays() for lattice in lattices))
    function = getattr(_library(), f"mean_field_{NAMES[unary.dtype]}")
    function(arrays, ctypes.byref(updates), *map(_address, (numbers, unary, scores, kept)), _threads())
    return scores, kept


def derivatives(
    by_scores: Tensor, kept: Tensor, weights: Tensor | tuple[float, ...], lattices: Sequence[CpuLattice]
) -> tuple[Tensor, Tensor | None]:
    """The derivatives of `mean_field` by the unary scores and by matrices of weights.

    Args:
        by_scores: The derivative by the scores, `[N, K, P]`.
        kept: The marginals that it kept.
        weights: As given to it.
        lattices: As given to it.
    """
    by = by_scores.mT.flatten(0, 1)
    by_unary = by.clone()
    by_weights = torch.zeros_like(weights) if isinstance(weights, Tensor) else None
    for marginals in reversed(kept.unbind()):
        by_marginals = torch.zeros_like(by)
        for index, lattice in enumerate(lattices):
            message = lattice.filter(by, reverse=True)
            if by_weights is not None:
                by_weights[index].addmm_(message.mT, marginals)
                by_marginals.addmm_(message, weights[index])  # type: ignore[arg-type]  # these are matrices
            else:
                by_marginals.add_(message, alpha=weights[index])  # type: ignore[arg-type]  # these are numbers
        by_marginals.mul_(marginals)
        by = by_marginals - marginals * by_marginals.sum(dim=1, keepdim=True)
        by_unary += by
    return by_unary.unflatten(0, (len(by_scores), -1)).mT, by_weights


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    """What C++ takes as a pointer; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _threads() -> int:
    """As many as PyTorch uses."""
    return torch.get_num_threads()


def _library() -> Any:
    """The compiled source, which `usable` has seen."""
    return cpu.library("lattice")
