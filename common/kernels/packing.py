"""Arrays as the compiled kernels take them: their layouts in memory, described and allocated."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_GAPS = 64
"""How many gaps a problem may have; as in cuda/grid.h."""

EXTRAS = 3
"""What a message has beside a number for each label; as in cuda/grid.h."""


class Problem(ctypes.Structure):
    """`Problem` in cuda/grid.h."""

    _fields_ = [
        ("images", ctypes.c_int),
        ("labels", ctypes.c_int),
        ("gaps", ctypes.c_int),
        ("lines", ctypes.c_int * 2),
        ("valid", ctypes.c_int * 2),
        ("length", ctypes.c_int * 2),
        ("gap", ctypes.c_int * MAX_GAPS),
    ]


class ScorePointers(ctypes.Structure):
    """`Scores` in cuda/chain.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("left", "right", "left_weight", "right_weight")]


class Plain(ctypes.Structure):
    """`Plain` in cuda/grid.h."""

    _fields_ = [("first", ctypes.c_void_p), ("stride", ctypes.c_longlong * 4)]


class Strided:
    """Tensors that are not packed, as the CPU's kernels take them: where they begin, and their strides."""

    def __init__(self, *tensors: Tensor) -> None:
        """
        Args:
            tensors: `[N, R, h, w]`, or pairwise scores `[N, K, K, h, w]`, whose labels are seen as one.
        """
        # Where strides do not let two labels be seen as one, these are copies, which must live so long.
        self._tensors = [x.flatten(1, 2) if x.ndim == 5 else x for x in tensors]
        described = [plain(x) for x in self._tensors]
        self._as_parameter_ = (Plain * len(described))(*described)  # what ctypes gives to a function


def plain(tensor: Tensor) -> Plain:
    """A tensor of four dimensions as kernels take it: where it begins, and its strides."""
    return Plain(tensor.data_ptr(), strides(tensor))


def strides(tensor: Tensor) -> ctypes.Array[ctypes.c_longlong]:
    """The strides of a tensor of four dimensions."""
    return (ctypes.c_longlong * 4)(*tensor.stride())


def scores_like(scores: Tensor) -> Tensor:
    """An empty tensor like scores `[N, K, K, …]`, with their strides if both labels can be seen as one."""
    like = torch.empty_like(scores)
    if like.stride(1) == like.shape[2] * like.stride(2):
        return like
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class PackedScores:
    """Pairwise scores, packed, and what the kernels make of them: `weights` in cuda/chain.h.

    Attributes:
        left: `[edges, K², W]`; or, factored, `[cells, K², W]` of the earlier ends; None where weights do.
        right: None; or `[cells, K², W]` of the later ends.
        left_weight: `[edges or cells, K² + 1, W]`; None of derivatives and hard maxima.
        right_weight: The weights of `right`, as those of `left`.
        rows: On a GPU, instead of all others: `rows` in cuda/chain.cu.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    left_weight: Tensor | None = None
    right_weight: Tensor | None = None
    rows: Tensor | None = None

    def pointers(self) -> ScorePointers:
        """The arrays as the kernels take them."""
        arrays = (self.left, self.right, self.left_weight, self.right_weight)
        return ScorePointers(*(None if x is None else x.data_ptr() for x in arrays))


def as_argument(value: object) -> object:
    """An argument of a kernel on the CPU as ctypes takes it: tensors and structures by their addresses."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return ctypes.c_longlong(value) if isinstance(value, int) else value
