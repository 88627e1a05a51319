"""The permutohedral lattice on a GPU, compiled from `cuda/lattice.cu`.

Values are rows of numbers, padded to a multiple of four. Building waits for the GPU once, for the lattice's
size; filtering and mean fields do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.kernels import gpu
from common.kernels.lattice_plain import BUDGET, NOT_FINITE, TOO_FAR

LARGEST = 6
"""The most dimensions of points that the source is compiled for."""

LABELS = 512
"""The most labels of a mean field whose messages fit into the shared memory of any block."""

MOST = 2
"""How many lattices the source filters by at a time."""

THREADS, WINDOW = 128, 32
SCALARS = {torch.float32: "float", torch.float64: "double"}


class SingleWeights(ctypes.Structure):
    """`Weights` in cuda/lattice.cu, where SCALAR is float."""

    _fields_ = [("number", ctypes.c_float * MOST), ("matrix", ctypes.c_void_p)]


class DoubleWeights(ctypes.Structure):
    """`Weights` in cuda/lattice.cu, where SCALAR is double."""

    _fields_ = [("number", ctypes.c_double * MOST), ("matrix", ctypes.c_void_p)]


WEIGHTS = {torch.float32: SingleWeights, torch.float64: DoubleWeights}


class Arrays(ctypes.Structure):
    """`Lattice` in cuda/lattice.cu."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("corners", "points", "size", "entries", "windows", "copies")),
        *((name, ctypes.c_void_p) for name in ("gather", "weights", "vertex", "spread", "spread_weights")),
        *((name, ctypes.c_void_p) for name in ("starts", "neighbours", "after", "values", "other", "heads")),
    ]


class Lattices(ctypes.Structure):
    """`Lattices` in cuda/lattice.cu."""

    _fields_ = [
        ("count", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("lattice", Arrays * MOST),
    ]


def usable(features: Tensor) -> bool:
    """Whether a lattice of such points can be had on their GPU."""
    groups, points, d = features.shape
    return (
        features.device.type == "cuda"
        and 0 < d <= LARGEST
        and 0 < groups * points * (d + 1) < 2**31 - WINDOW
        and gpu.loadable("lattice", "float", features.device)
    )


class GpuLattice:
    """A lattice of each group of points; `Lattice` of common/kernels/lattice.py has the meaning of all."""

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: The points, float32 `[groups, P, d]`.

        Raises:
            ValueError: The points are too far apart, or not finite.
        """
        self.groups, self.points, d = features.shape
        self.device, self.corners = features.device, d + 1
        count = self.groups * self.points
        self.entries = count * self.corners
        self.windows = -(-self.entries // WINDOW)
        features = features.contiguous()
        bounds = self._integers(2 * d + 1).fill_(-(2**31) + 1)
        codes = torch.empty(self.entries, dtype=torch.int64, device=self.device)
        self.weights = torch.empty(count, self.corners, device=self.device)
        self._launch("extent", count, [d, count, features, bounds])
        self._launch("corners", count, [d, count, self.points, features, bounds, codes, self.weights])
        ordered, order = codes.sort(stable=True)
        del codes
        self._number(ordered, order, bounds)
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self._spread_weights: dict[bool, Tensor] = {}

    def _number(self, ordered: Tensor, order: Tensor, bounds: Tensor) -> None:
        """Numbers the vertices in the order of their codes, and finds their neighbours."""
        filled = self.windows * WINDOW
        self.vertex = self._integers(filled)
        self.vertex[:1] = 0
        new = ordered[1:] != ordered[:-1]
        torch.cumsum(new, 0, dtype=torch.int32, out=self.vertex[1 : self.entries])
        last, status = torch.stack([self.vertex[self.entries - 1], bounds[-1]]).tolist()
        if status > 0:
            raise ValueError(NOT_FINITE if status == 2 else TOO_FAR)
        self.size = last + 1
        self.gather, self.spread = self._integers(self.entries), self._integers(filled)
        self.spread_weights = torch.empty(filled, device=self.device)
        self.starts = self._integers(self.size + 1)
        known = torch.empty(self.size, dtype=torch.int64, device=self.device)
        self.neighbours = self._integers(self.corners, self.size, 2)
        numbers = [self.entries, filled, self.corners, self.size]
        results = [self.vertex, self.spread, self.spread_weights, self.gather, self.starts, known]
        self._launch("fill", filled, [*numbers, ordered, order, self.weights, *results])
        inputs = [self.corners - 1, self.size, bounds, known]
        self._launch("neighbours", self.size * self.corners, [*inputs, self.neighbours])

    def _integers(self, *shape: int) -> Tensor:
        """A new array of whole numbers."""
        return torch.empty(shape, dtype=torch.int32, device=self.device)

    def _launch(self, kernel: str, threads: int, arguments: list[Any]) -> None:
        """Starts a kernel that has a thread for everything."""
        gpu.launch("lattice", kernel, "float", self.device, -(-threads // THREADS), 0, arguments, THREADS)

    def normalise(self, before: Tensor | None, after: Tensor | None) -> None:
        """Has every filtering multiply by these numbers of each point, float32 `[groups · P]`."""
        self.before, self.after = (None if x is None else x.contiguous() for x in (before, after))
        self._spread_weights.clear()

    def filter(self, values: Tensor, reverse: bool) -> Tensor:
        """The values `[images · P, C]` filtered, without a derivative."""
        held = values.element_size() * (2 * len(values) + 3 * self.size)
        most = max(4, BUDGET // held // 4 * 4)
        parts = []
        for part in values.split(most, dim=1):
            padded = torch.nn.functional.pad(part, (0, -part.shape[1] % 4)).contiguous()
            steps = Filtering([self], padded.shape, padded.dtype, reverse)
            parts.append(steps.messages(padded)[0][:, : part.shape[1]])
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0].contiguous()

    def spread_by(self, reverse: bool) -> Tensor:
        """The weight of every entry, times that of its point before the filtering."""
        number = self.after if reverse else self.before
        if number is None:
            return self.spread_weights
        symmetric = self.before is self.after
        key = reverse and not symmetric
        if key not in self._spread_weights:
            self._spread_weights[key] = self.spread_weights * number[self.spread]
        return self._spread_weights[key]

    def arrays(self, rows: int, width: int, dtype: torch.dtype, reverse: bool) -> tuple[Arrays, list[Tensor]]:
        """What the kernels are given, with room for values, and what must live as long.

        Args:
            rows: Points of all images.
            width: How many numbers a row has.
            dtype: Their type.
            reverse: Whether the transpose filters.
        """
        copies = rows // self.points if self.groups == 1 else 1
        lengths = [copies * size for size in (self.size, self.size, self.windows)]
        room = torch.empty(sum(lengths), width, dtype=dtype, device=self.device).split(lengths)
        spread_weights = self.spread_by(reverse)
        numbers = (self.corners, self.points, self.size, self.entries, self.windows, copies)
        inputs = (self.gather, self.weights, self.vertex, self.spread, spread_weights, self.starts)
        after = self.before if reverse else self.after
        tensors = (*inputs, self.neighbours, after, *room)
        addresses = [None if x is None else x.data_ptr() for x in tensors]
        return Arrays(*numbers, *addresses), [spread_weights, *room]


class Filtering:
    """Filtering of values of one shape by some lattices at once, in as few launches as by one."""

    def __init__(
        self, lattices: Sequence[GpuLattice], shape: Sequence[int], dtype: torch.dtype, reverse: bool
    ) -> None:
        """
        Args:
            lattices: At most `MOST`, of the same points.
            shape: Of the values, `[images · P, a multiple of 4]`.
            dtype: float32 or float64.
            reverse: Whether the transposes filter.
        """
        self.rows, self.width = shape
        self.dtype, self.reverse, self.device = dtype, reverse, lattices[0].device
        self.count, self.columns = len(lattices), self.width // 4
        self.lanes = min(32, 1 << (self.columns - 1).bit_length())
        arrays, self.rooms = zip(*(one.arrays(self.rows, self.width, dtype, reverse) for one in lattices))
        self.lattices = Lattices(self.count, self.columns, self.rows, (Arrays * MOST)(*arrays))
        self.turns = max(one.corners for one in lattices)
        self.vertices = max(one.copies * one.size for one in arrays)
        self.windows = max(one.copies * one.windows for one in arrays)

    def blur(self, values: Tensor) -> None:
        """Spreads the values `[rows, width]` and blurs them."""
        self._launch("splat", self.windows * self.columns, values)
        self._launch("carry", self.windows * self.columns)
        for turn in range(self.turns):
            self._launch("blur", self.vertices * self.columns, turn, int(self.reverse))

    def messages(self, values: Tensor) -> Tensor:
        """The values filtered by each lattice, `[lattices, rows, width]`."""
        self.blur(values)
        result = values.new_empty(self.count, self.rows, self.width)
        self._launch("slice", self.rows * self.columns, result)
        return result

    def update(
        self, weights: tuple[ctypes.Structure, Tensor | None], unary: Tensor, result: Tensor, **flags: bool
    ) -> None:
        """Writes scores or marginals, after `blur` if `informed`."""
        options = (int(flags["informed"]), int(flags["marginals"]), unary, result)
        self._launch_groups("update", weights, *options)

    def update_backward(
        self, weights: tuple[ctypes.Structure, Tensor | None], *arrays: Tensor | None
    ) -> None:
        """The derivative of an update, after `blur`."""
        self._launch_groups("update_backward", weights, *arrays)

    def _launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        """Starts a kernel that has a thread for everything, of each lattice."""
        blocks = (-(-threads // THREADS), self.count)
        options = [self.lattices, *arguments]
        gpu.launch("lattice", kernel, SCALARS[self.dtype], self.device, blocks, 0, options, THREADS)

    def _launch_groups(
        self, kernel: str, weights: tuple[ctypes.Structure, Tensor | None], *arguments: Any
    ) -> None:
        """Starts a kernel that has some threads for each point."""
        points = THREADS // self.lanes
        structure, matrices = weights
        box = self.count * self.width * self.dtype.itemsize
        shared = 0 if matrices is None else points * box
        options = [self.lattices, self.lanes, structure, *arguments]
        blocks = -(-self.rows // points)
        gpu.launch("lattice", kernel, SCALARS[self.dtype], self.device, blocks, shared, options, THREADS)


def _weights(
    weights: Tensor | tuple[float, ...], dtype: torch.dtype, backward: bool
) -> tuple[ctypes.Structure, Tensor | None]:
    """What the kernels are given, and the padded matrices, by sender, that must live as long."""
    result = WEIGHTS[dtype]()
    if not isinstance(weights, Tensor):
        result.number[: len(weights)] = weights
        return result, None
    pad = -weights.shape[1] % 4
    matrices = torch.nn.functional.pad(weights if backward else weights.mT, (0, pad, 0, pad)).contiguous()
    result.matrix = matrices.data_ptr()
    return result, matrices


def rows_of(maps: Tensor, filling: float) -> Tensor:
    """From `[N, K, P]` to rows of a multiple of four numbers, `[N · P, …]`."""
    images, labels, points = maps.shape
    rows = maps.new_full((images, points, labels + -labels % 4), filling)
    rows[..., :labels] = maps.mT
    return rows.flatten(0, 1)


def maps_of(rows: Tensor, images: int, labels: int) -> Tensor:
    """From rows to `[N, K, P]`."""
    return rows.unflatten(0, (images, -1))[..., :labels].mT.contiguous()


def mean_field(
    lattices: Sequence[GpuLattice],
    unary: Tensor,
    weights: Tensor | tuple[float, ...],
    iterations: int,
    marginals: bool,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Mean-field updates, as `lattice_cpu.mean_field`, which has the arguments.

    Returns:
        As there, but kept marginals are padded to a multiple of four: `[iterations, N · P, K + -K % 4]`.
    """
    start = rows_of(unary, -torch.inf)
    steps = Filtering(lattices, start.shape, start.dtype, reverse=False)
    numbers = _weights(weights, unary.dtype, backward=False)
    kept = start.new_empty(iterations if keep else 1, *start.shape)
    steps.update(numbers, start, kept[0], informed=False, marginals=True)
    for n in range(iterations):
        last = n == iterations - 1
        steps.blur(kept[n if keep else 0])
        result = start if last else kept[n + 1 if keep else 0]
        steps.update(numbers, start, result, informed=True, marginals=marginals or not last)
    return maps_of(start, len(unary), unary.shape[1]), kept if keep else None


def derivatives(
    by_scores: Tensor, kept: Tensor, weights: Tensor | tuple[float, ...], lattices: Sequence[GpuLattice]
) -> tuple[Tensor, Tensor | None]:
    """The derivatives of `mean_field`, as `lattice_cpu.derivatives`, which has the arguments."""
    images, labels, _ = by_scores.shape
    by = rows_of(by_scores, 0.0)
    by_unary = by.clone()
    steps = Filtering(lattices, by.shape, by.dtype, reverse=True)
    numbers = _weights(weights, by.dtype, backward=True)
    messages = by_weights = None
    if isinstance(weights, Tensor):
        messages = by.new_empty(len(lattices), *by.shape)
        by_weights = by.new_zeros(len(lattices), by.shape[1], by.shape[1])
    for marginals in reversed(kept.unbind()):
        steps.blur(by)
        steps.update_backward(numbers, marginals, by_unary, by, messages)
        if by_weights is not None and messages is not None:
            by_weights.baddbmm_(messages.mT, marginals.expand(len(lattices), -1, -1))
    if by_weights is not None:
        by_weights = by_weights[:, :labels, :labels]
    return maps_of(by_unary, images, labels), by_weights
