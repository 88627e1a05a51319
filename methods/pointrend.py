"""PointRend: the least certain points of finer grids get scores of their own, by a small network.

Kirillov et al., "PointRend: Image Segmentation as Rendering", CVPR 2020, arXiv 1912.08193. A point is
classified by a perceptron of three layers with 256 channels, from the network's features and scores there,
both interpolated bilinearly; every layer sees the scores. For training, three times as many points as wanted
are drawn uniformly; three quarters of the wanted ones are those of them whose two highest scores are closest,
the others are drawn anew. The loss is

    cross-entropy of the network's scores at full size + weight · cross-entropy of the points

over what is not void. Afterwards, scores are enlarged by two, bilinearly, up to the size of the network's
input, and in each step those cells whose two highest are closest get the perceptron's instead. There is one
point per 256 pixels of the image, in training and in each step, as published for Cityscapes (2048 for crops
of 1024×512, 8192 for 2048×1024).

Features are those in front of the classifier. Those of DeepLabV3+, UPerNet and SegFormer are of stride 4, as
in the published code, which takes the finest map of a feature pyramid. Those of DeepLabV3, PSPNet and FCN are
no finer than the scores: there PointRend has less to see than published, where a stage of the backbone of
stride 4 gives what is fine. Beyond the outermost cells their values are repeated, as wherever scores are
enlarged here; in the published code they fall to 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.labels import VOID
from methods.base import Grid, Method, cross_entropy


class PointRend(Method):
    """Points whose class is uncertain are classified by a perceptron."""

    grid: Grid = "full"

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        pixels_per_point: int = 256,
        oversampling: float = 3.0,
        importance: float = 0.75,
        channels: int = 256,
        layers: int = 3,
        scores_each_layer: bool = True,
        weight: float = 1.0,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            pixels_per_point: Pixels of an image for each point, in training and in each step afterwards.
            oversampling: How many candidates there are in training for each point, at least 1.
            importance: The share of the points in training that are chosen as uncertain, in [0, 1].
            channels: Of the perceptron's layers.
            layers: How many the perceptron has before the one that gives scores.
            scores_each_layer: Whether all layers see the network's scores, or the first alone.
            weight: Of the points' loss; positive.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        numbers = {"pixels_per_point": (pixels_per_point, 10**6), "channels": (channels, 10**4)}
        for name, (number, highest) in (numbers | {"layers": (layers, 100)}).items():
            if not 1 <= number <= highest:
                raise ValueError(f"{name} must be at least 1 and at most {highest}, not {number!r}")
        if not 1 <= oversampling <= 100:
            raise ValueError(f"oversampling must be at least 1 and at most 100, not {oversampling!r}")
        if not 0 <= importance <= 1:
            raise ValueError(f"importance must be between 0 and 1, not {importance!r}")
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight must be a finite number above 0, not {weight!r}")
        self.pixels_per_point, self.weight = pixels_per_point, weight
        self.oversampling, self.importance = oversampling, importance
        self.head = PointHead(num_classes, feature_channels, channels, layers, scores_each_layer)
        # Of the run's stream; on the CPU, as the points are, so that all devices draw the same.
        self.seed = int(torch.randint(2**31, (), device="cpu"))
        self._input_size: Sequence[int] | None = None
        self._latest: Tensor | None = None

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        unary = _single(unary)
        if not self.training:
            return self.subdivided(images, features, unary)
        self._input_size = images.shape[2:]  # the loss sees labels, which are not padded
        return self.enlarged(unary, images)

    def subdivided(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        """Scores at full size, of the perceptron where they are uncertain in a step; as `structure`."""
        size = images.shape[2:]
        scores = unary.contiguous()  # one map per class is compared with the next
        for cells in self._finer_grids(size, unary.shape[2:]):
            scores = functional.interpolate(scores, cells, mode="bilinear", align_corners=self._corners)
            flat = scores.flatten(2)
            count = min(self._count(size), flat.shape[2])
            index = certainty(flat.detach()).topk(count, largest=False).indices
            places = torch.stack([index // cells[1], index % cells[1]], dim=2).to(unary)
            own = self._classified(places, cells, features, unary)
            index = index.unsqueeze(1).expand(-1, self.num_classes, -1)
            scores = flat.scatter_(2, index, own.transpose(1, 2).to(flat)).unflatten(2, cells)
        below, right = (side - covered for side, covered in zip(size, scores.shape[2:]))
        return functional.pad(scores, (0, right, 0, below), mode="replicate") if below or right else scores

    def loss(self, logits: Tensor, labels: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        coarse = cross_entropy(logits, labels)
        unary = _single(unary)
        cells = self._reach(self._input_size or labels.shape[1:], unary.shape[2:])
        with torch.no_grad():
            points = self._drawn(labels, cells, unary)
            row, column = (
                (x + 0.5).long().clamp(max=side - 1) for x, side in zip(points.unbind(2), labels.shape[1:])
            )
            truth = labels.flatten(1).gather(1, row * labels.shape[2] + column).long()
        scores = _single(self._classified(points, cells, features, unary)).transpose(1, 2)
        total = functional.cross_entropy(scores, truth, ignore_index=VOID, reduction="sum")
        of_points = total / (truth != VOID).sum().clamp(min=1)
        self._latest = torch.stack([coarse, of_points]).detach()
        return coarse + self.weight * of_points

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    def diagnostics(self) -> dict[str, float]:
        """The parts of the latest loss: the cross-entropies of the network's scores and of points."""
        return {} if self._latest is None else dict(zip(("coarse", "points"), self._latest.tolist()))

    @property
    def _corners(self) -> bool:
        """Whether corner cells lie on corner cells when a grid is enlarged, or edges on edges."""
        return self.alignment != "middles"

    def _count(self, size: Sequence[int]) -> int:
        """How many points an image of a size has."""
        return max(1, size[0] * size[1] // self.pixels_per_point)

    def _reach(self, size: Sequence[int], cells: Sequence[int]) -> list[int]:
        """Rows and columns of pixels that a grid reaches over, as `enlarged` has them.

        Args:
            size: Of the network's input.
            cells: Of the grid.
        """
        if self.alignment != "corners":
            return [*size]
        return [side - side // count + 1 for side, count in zip(size, cells)]

    def _finer_grids(self, size: Sequence[int], cells: Sequence[int]) -> Iterator[list[int]]:
        """The sizes of the grids that follow a grid, each about twice as fine, up to the pixels."""
        last = int(self._corners)  # both ends of an edge count as cells
        reach = self._reach(size, cells)
        for left in reversed(range(round(math.log2(size[0] / cells[0])))):
            yield [-(-(side - last) // 2**left) + last for side in reach]

    def _drawn(self, labels: Tensor, cells: Sequence[int], unary: Tensor) -> Tensor:
        """The points of a step of training, `[N, P, 2]`: rows and columns of pixels, with fractions.

        Args:
            labels: `[N, H, W]`.
            cells: Rows and columns of pixels that the grid of the scores reaches over.
            unary: `[N, K, h, w]`.
        """
        count = self._count(labels.shape[1:])
        uncertain, candidates = int(self.importance * count), int(self.oversampling * count)
        seed = (self.seed + round(self.progress * 2**31)) % 2**32  # anew in each step
        points = torch.rand(
            len(labels), candidates + count - uncertain, 2, generator=torch.Generator().manual_seed(seed)
        )
        points = points.to(unary, non_blocking=True)
        points = torch.stack(
            [points[..., axis] * side - 0.5 for axis, side in enumerate(labels.shape[1:])], dim=2
        )
        first = points[:, :candidates]
        scores = _interpolated(unary, _shares(first, cells, self._corners), self._corners)
        index = certainty(scores.transpose(1, 2)).topk(uncertain, largest=False).indices
        return torch.cat(
            [first.gather(1, index.unsqueeze(2).expand(-1, -1, 2)), points[:, candidates:]], dim=1
        )

    def _classified(self, places: Tensor, cells: Sequence[int], features: Tensor, unary: Tensor) -> Tensor:
        """The perceptron's scores `[N, P, K]`.

        Args:
            places: Rows and columns of points on a grid, with fractions, `[N, P, 2]`.
            cells: Of that grid.
            features: `[N, C, h, w]`.
            unary: `[N, K, h, w]`.
        """
        shares = _shares(places, cells, self._corners)
        return self.head(*(_interpolated(maps, shares, self._corners) for maps in (features, unary)))


class PointHead(nn.Module):
    """The perceptron that classifies points."""

    def __init__(
        self, num_classes: int, feature_channels: int, channels: int, layers: int, scores_each_layer: bool
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            channels: Of its layers.
            layers: How many there are before the one that gives scores.
            scores_each_layer: Whether all layers see the network's scores, or the first alone.
        """
        super().__init__()
        further = num_classes if scores_each_layer else 0
        inputs = [feature_channels + num_classes] + [channels + further] * layers
        self.scores_each_layer = scores_each_layer
        hidden = [nn.Linear(count, channels) for count in inputs[:-1]]
        self.hidden, self.last = nn.ModuleList(hidden), nn.Linear(inputs[-1], num_classes)
        for layer in hidden:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.last.weight, std=0.001)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        """Scores `[N, P, K]` of points.

        Args:
            features: `[N, P, C]`.
            scores: The network's, `[N, P, K]`.
        """
        x = torch.cat([features, scores], dim=2)
        for layer in self.hidden:
            x = layer(x).relu()
            if self.scores_each_layer:
                x = torch.cat([x, scores.to(x)], dim=2)
        return self.last(x)


def certainty(scores: Tensor) -> Tensor:
    """By how much the highest of scores `[N, K, …]` is above the second, `[N, …]`."""
    first, second = scores[:, 0], torch.full_like(scores[:, 0], -torch.inf)
    for other in scores.unbind(dim=1)[1:]:
        second = second.maximum(other.minimum(first))
        first = first.maximum(other)
    return first - second


def _single(scores: Tensor) -> Tensor:
    """Scores in at least float32: mixed precision may give half of it."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _shares(places: Tensor, cells: Sequence[int], corners: bool) -> Tensor:
    """Where points lie between the ends of a grid, 0 to 1.

    Args:
        places: Rows and columns on the grid, with fractions, `[N, P, 2]`; cell i lies at i.
        cells: Rows and columns that the grid has.
        corners: Whether its ends are the middles of its outermost cells, or their edges.
    """
    of_axes = zip(places.unbind(dim=2), cells)
    if corners:
        return torch.stack([place / max(1, count - 1) for place, count in of_axes], dim=2)
    return torch.stack([(place + 0.5) / count for place, count in of_axes], dim=2)


def _interpolated(maps: Tensor, shares: Tensor, corners: bool) -> Tensor:
    """What maps are at some points, bilinearly; beyond the outermost cells as there.

    Args:
        maps: `[N, C, h, w]`.
        shares: As of `_shares`, `[N, P, 2]`.
        corners: As there.

    Returns:
        `[N, P, C]` in the type of the shares.
    """
    n, c, h, w = maps.shape
    cells = maps.movedim(1, 3).reshape(-1, c)  # a view, as maps are stored
    row, column = (
        (share * (count - 1) if corners else share * count - 0.5).clamp(0, count - 1)
        for share, count in zip(shares.unbind(dim=2), (h, w))
    )
    top, left = row.long(), column.long()
    below, right = (top + 1).clamp(max=h - 1), (left + 1).clamp(max=w - 1)
    start = h * w * torch.arange(n, device=maps.device).unsqueeze(1)

    def of_row(y: Tensor) -> Tensor:
        first, last = (functional.embedding(start + y * w + x, cells).to(shares) for x in (left, right))
        return torch.lerp(first, last, (column - left).unsqueeze(2))

    return torch.lerp(of_row(top), of_row(below), (row - top).unsqueeze(2))
