"""The permutohedral lattice in plain PyTorch, for any device.

Its splat, blur and slice are weighted sums of rows, `torch.nn.functional.embedding_bag`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FARTHEST = 2.0**20
"""Beyond it a float32 does not tell a simplex of the lattice from the next."""

BUDGET = 2**29
"""Bytes of values that a filtering may hold at a time; of more columns, some are filtered at a time."""

TOO_FAR = "the Gaussian's standard deviations are too small for points so far apart: increase them"

NOT_FINITE = "the points, such as the colours of an image, must be finite numbers"


class PlainLattice:
    """A lattice of several groups of points; common/kernels/lattice.py says what they are.

    Memory: 16 bytes per point and corner, and 12 bytes per vertex of the lattice and direction.
    """

    def __init__(self, features: Tensor) -> None:
        """
        Args:
            features: The points, float32 `[groups, P, d]`.

        Raises:
            ValueError: The points are too far apart, or not finite.
        """
        self.groups, self.points, d = features.shape
        corners = d + 1
        codes, weights, steps = _corners(features.flatten(0, 1).mT.contiguous(), self.groups)
        ordered, order = codes.flatten().sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        vertex = first.int().cumsum(0, dtype=torch.int32) - 1
        known = ordered[first]
        self.size = len(known)
        # Per point: its corners. Per vertex of the lattice: the points around it, and where they begin.
        gather = torch.empty_like(vertex)
        gather[order] = vertex
        self.gather = gather.view(-1, corners)
        self.weights = weights
        self.spread = torch.div(order, corners, rounding_mode="floor").int()
        self.spread_weights = weights.flatten()[order]
        self.starts = torch.cat(
            [first.nonzero().squeeze(1), first.new_full((1,), len(first), dtype=torch.long)]
        ).int()
        self.neighbours = torch.stack([_neighbours(known, step) for step in steps])
        # What the blur adds up to, in the reference's approximation.
        self.weights /= 1 + 2.0 ** -(corners - 1)
        self.before: Tensor | None = None
        self.after: Tensor | None = None

    def normalise(self, before: Tensor | None, after: Tensor | None) -> None:
        """Has every filtering multiply by these numbers of each point, `[groups · P]`."""
        self.before, self.after = before, after

    def filter(self, values: Tensor, reverse: bool) -> Tensor:
        """The values `[images · P, C]` filtered, without a derivative."""
        images = len(values) // self.points
        if self.groups == 1 < images:  # several images of the same points are so many more columns
            columns = values.unflatten(0, (images, -1)).transpose(0, 1).flatten(1)
            return self.filter(columns, reverse).unflatten(1, (images, -1)).transpose(0, 1).flatten(0, 1)
        before, after = (self.after, self.before) if reverse else (self.before, self.after)
        if before is not None:
            values = values * before.unsqueeze(1).to(values.dtype)
        held = values.element_size() * (2 * len(values) + 3 * self.size)
        parts = values.split(max(1, BUDGET // held), dim=1)
        result = torch.cat([self._filter(part, reverse) for part in parts], dim=1)
        return result if after is None else result * after.unsqueeze(1).to(values.dtype)

    def _filter(self, values: Tensor, reverse: bool) -> Tensor:
        """As `filter`, of few columns and not normalised."""
        dtype = values.dtype
        vertices = functional.embedding_bag(
            self.spread,
            values.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.spread_weights.to(dtype),
            include_last_offset=True,
        )
        # The last row stands for neighbours that are not in the lattice.
        vertices = torch.cat([vertices, vertices.new_zeros(1, vertices.shape[1])])
        blur = vertices.new_tensor([1.0, 0.5, 0.5]).expand(self.size + 1, 3).contiguous()
        for neighbours in self.neighbours.flip(0) if reverse else self.neighbours:
            vertices = functional.embedding_bag(neighbours, vertices, mode="sum", per_sample_weights=blur)
        weights = self.weights.to(dtype)
        return functional.embedding_bag(self.gather, vertices, mode="sum", per_sample_weights=weights)


def _corners(features: Tensor, groups: int) -> tuple[Tensor, Tensor, list[int]]:
    """The corners of the simplex that each point `[d, P]` lies in, and its barycentric coordinates.

    As many points each belong to the first, the second, … of the groups.

    Returns:
        Codes of the corners, int64 `[P, d + 1]`; their weights, float32 `[P, d + 1]`; and what must be added
        to a code to go one step along each direction.
    """
    d = len(features)
    elevated = _elevated(features)
    farthest = elevated.abs().max()
    if not farthest <= FARTHEST:
        raise ValueError(NOT_FINITE if farthest.isnan() else TOO_FAR)
    remainder0 = torch.round(elevated * (1 / (d + 1))) * (d + 1)
    difference = elevated - remainder0
    rank = torch.zeros_like(elevated, dtype=torch.int32)
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = difference[i] < difference[j]
            rank[i] += less
            rank[j] += ~less
    # Where the rounded point does not lie on the plane of the lattice, it is brought back.
    rank += (remainder0.sum(0) * (1 / (d + 1))).round().int()
    back = (rank < 0).int() - (rank > d).int()
    rank += (d + 1) * back
    remainder0 += (d + 1) * back
    rank = rank.long()
    offset = torch.empty_like(elevated).scatter_(0, d - rank, (elevated - remainder0) * (1 / (d + 1)))
    weights = offset - functional.pad(offset, (0, 0, 1, 0))[:-1]
    weights[0] += 1 - offset[d]
    (*strides, whole), low = _strides(remainder0[:d].long(), groups)
    base = (torch.tensor(strides, device=rank.device).view(-1, 1) * (remainder0[:d].long() - low)).sum(0)
    base.view(groups, -1).add_(whole * torch.arange(groups, device=rank.device).view(-1, 1))
    # Corner r adds r to every coordinate, less d + 1 for the r coordinates of the highest ranks.
    by_rank = torch.zeros_like(rank).scatter_(
        0, rank, torch.tensor([*strides, 0], device=rank.device).view(-1, 1).expand_as(rank)
    )
    highest = functional.pad(by_rank.flip(0).cumsum(0), (0, 0, 1, 0))[: d + 1]
    corner = torch.arange(d + 1, device=rank.device).view(-1, 1)
    codes = base + corner * sum(strides) - (d + 1) * highest
    steps = [(d + 1) * stride - sum(strides) for stride in [*strides, 0]]
    return codes.mT.contiguous(), weights.mT.contiguous(), steps


def _elevated(features: Tensor) -> Tensor:
    """The points in the plane of the lattice, `[d + 1, P]`; scaled for its blur."""
    d = len(features)
    result = features.new_empty(d + 1, features.shape[1])
    total = torch.zeros_like(features[0])
    for j in range(d, 0, -1):
        scaled = features[j - 1] * (math.sqrt(2 / 3) * (d + 1) / math.sqrt(j * (j + 1)))
        result[j] = total - j * scaled
        total = total + scaled
    result[0] = total
    return result


def _strides(keys: Tensor, groups: int) -> tuple[list[int], Tensor]:
    """What each coordinate of `[d, P]`, and the group, counts in a code; and the lowest keys `[d, 1]`."""
    room = 3 * (len(keys) + 1)  # for neighbours
    low, high = keys.amin(1) - room, keys.amax(1) + room
    strides = [1]
    for extent in (high - low + 1).tolist():
        strides.append(strides[-1] * extent)
    if strides[-1] * groups >= 2**62:
        raise ValueError(TOO_FAR)
    return strides, low.view(-1, 1)


def _neighbours(known: Tensor, step: int) -> Tensor:
    """Each vertex and its two neighbours along a direction, `[M + 1, 3]`; those that are missing are M."""
    size = len(known)
    itself = torch.arange(size + 1, dtype=torch.int32, device=known.device)
    result = torch.full((size + 1, 3), size, dtype=torch.int32, device=known.device)
    result[:, 0] = itself
    place = torch.searchsorted(known, known + step).clamp_(max=size - 1)
    exists = known[place] == known + step
    result[:size, 1] = torch.where(exists, place, size).int()
    result[place[exists], 2] = itself[:size][exists]
    return result
