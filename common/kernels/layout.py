"""How the arrays of a grid of chains lie in memory, and how they come there and back.

The arrays that the kernels work on are packed: lines of the grid (its rows, then its columns, of all
images one after the other) in blocks of W, `[blocks, places along the line, …, W]`. W is the length of
the CPU's vectors, and 1 on a GPU. Arrays that are not packed, `[N, R, h, w]`, are called maps here.
`cuda/chain.h` has the meaning of every array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from common.kernels import cpu
from common.kernels.packing import MAX_GAPS, PackedScores, Problem, Strided, as_argument, strides

NAMES = {torch.float32: "float32", torch.float64: "float64"}
SCALARS = {torch.float32: "float", torch.float64: "double"}


def on_gpu(device: torch.device) -> bool:
    """Whether the kernels for a device are those of GPUs."""
    return device.type == "cuda"


def lanes(device: torch.device, dtype: torch.dtype) -> int:
    """W: how many chains one thread computes at a time."""
    if on_gpu(device) or device.type != "cpu":
        return 1
    return getattr(cpu.library("chain"), f"lanes_{NAMES[dtype]}")()


class Layout:
    """The layout of a grid of chains.

    Attributes:
        images: N.
        labels: K.
        height: h.
        width: w.
        gaps: Distances between neighbours on a chain.
        lanes: W.
        lengths: How many cells a row and a column have.
        valid: How many rows and columns there are.
        blocks: How many blocks the rows fill, and the columns.
        sizes: How many cells the blocks of the rows have, and those of the columns, counted by W at a time.
        cells: The sum of `sizes`.
        chains: How many chains there are, counted by W at a time.
    """

    def __init__(
        self, shape: Sequence[int], gaps: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        """
        Args:
            shape: N, K, h, w.
            gaps: Distances between neighbours on a chain.
            dtype: float32 or float64.
            device: Where the arrays are.
        """
        self.images, self.labels, self.height, self.width = shape
        self.gaps = tuple(gaps)
        self.dtype = dtype
        self.device = device
        self.lanes = lanes(device, dtype)
        self.lengths = (self.width, self.height)
        self.valid = (self.images * self.height, self.images * self.width)
        self.blocks = tuple(-(-lines // self.lanes) for lines in self.valid)
        self.sizes = tuple(blocks * length for blocks, length in zip(self.blocks, self.lengths))
        self.cells = sum(self.sizes)
        self.chains = sum(
            blocks * min(gap, length) for blocks, length in zip(self.blocks, self.lengths) for gap in gaps
        )
        self.problem = Problem(
            self.images,
            self.labels,
            len(gaps),
            self.blocks,
            self.valid,
            self.lengths,
            (ctypes.c_int * MAX_GAPS)(*gaps),
        )

    def new(self, *shape: int) -> Tensor:
        """A packed array of `shape` and W that has nothing in it yet."""
        return torch.empty((*shape, self.lanes), dtype=self.dtype, device=self.device)

    def pack(self, maps: Tensor) -> Tensor:
        """From `[N, R, h, w]` to `[cells, R, W]`; lines that only fill a block are 0."""
        packed = self.new(self.cells, maps.shape[1])
        rows, columns = packed.split(self.sizes)
        self._pack(rows, maps)
        self._pack(columns, maps.transpose(2, 3))
        return packed

    def pack_images(self, values: Tensor) -> Tensor:
        """A number of each image `[N]` at each of its cells, `[cells, 1, W]`."""
        lines = self.by_line(values).split(self.blocks)
        parts = [part.repeat_interleave(length, 0) for part, length in zip(lines, self.lengths)]
        return torch.cat(parts).unsqueeze(1)

    def by_line(self, values: Tensor) -> Tensor:
        """A number of each image `[…, N]` for each of its lines, `[…, blocks, W]`."""
        parts = []
        for blocks, lines in zip(self.blocks, self.valid):
            part = values.repeat_interleave(lines // self.images, -1)
            room = blocks * self.lanes - lines
            parts.append(torch.nn.functional.pad(part, (0, room)).unflatten(-1, (blocks, self.lanes)))
        return torch.cat(parts, -2)

    def unpack_each(self, packed: Tensor) -> Tensor:
        """From `[gaps, cells, R, W]` to `[2 gaps, N, R, h, w]`: what the rows have, then the columns."""
        size = (2, len(packed), self.images, packed.shape[2], self.height, self.width)
        maps = torch.empty(size, dtype=self.dtype, device=self.device)
        for index, layer in enumerate(packed):
            rows, columns = layer.split(self.sizes)
            self._unpack(maps[0, index], rows)
            self._unpack(maps[1, index].transpose(2, 3), columns)
        return maps.flatten(0, 1)

    def pack_scores(
        self, gamma: Tensor, scores: Sequence[Tensor], factored: bool, weigh: bool = True, exact: bool = False
    ) -> PackedScores:
        """Packs pairwise scores and weighs them.

        Args:
            gamma: γ, a 0-dim tensor.
            scores: Of all gaps `[N, K, K, h, w−g]`, then of all gaps `[N, K, K, h−g, w]`; or, factored,
                two maps `[N, K, K, h, w]` of the earlier and of the later ends.
            factored: Which of the two.
            weigh: Whether a soft maximum is wanted, which needs weights.
            exact: Whether the scores themselves are needed even where their weights would do.
        """
        sides = 2 if factored else 1
        packed = [self.new(self._places(factored), self.labels**2) for _ in range(sides)]
        weights = [self.new(self._places(factored), self.labels**2 + 1) for _ in range(sides)]
        none = [None] * (2 - sides)
        room = PackedScores(*packed, *none, *weights)
        pointers = room.pointers()
        options = (int(factored), int(weigh), int(exact))
        # The kernel sets the pointers to null of which nothing is needed.
        self.call("pack_scores", self.problem, gamma, Strided(*scores), *options, pointers)
        return PackedScores(**{name: x for name, x in vars(room).items() if getattr(pointers, name, None)})

    def _places(self, factored: bool) -> int:
        """How many cells or edges have scores, counted by W at a time."""
        return self.cells if factored else sum(self._edges())

    def _edges(self) -> list[int]:
        """How many edges the rows have at each gap, then the columns, counted by W at a time."""
        return [
            blocks * max(0, length - gap)
            for blocks, length in zip(self.blocks, self.lengths)
            for gap in self.gaps
        ]

    def _pack(self, packed: Tensor, maps: Tensor) -> None:
        """Fills a packed array `[cells, R, W]` of one direction from maps `[N, R, lines, places]`."""
        self.call("pack", packed, maps, *maps.shape, strides(maps))

    def _unpack(self, maps: Tensor, packed: Tensor) -> None:
        """Fills maps `[N, R, lines, places]` from a packed array `[cells, R, W]` of one direction."""
        self.call("unpack", maps, packed, *maps.shape, strides(maps))

    def call(self, name: str, *arguments: object) -> None:
        """Calls a kernel on the CPU."""
        function = getattr(cpu.library("chain"), f"{name}_{NAMES[self.dtype]}")
        function(*map(as_argument, arguments), torch.get_num_threads())
