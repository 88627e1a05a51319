"""Active boundary loss: predicted boundaries are pulled towards the true ones, pixel by pixel.

Wang et al., "Active Boundary Loss for Semantic Segmentation", AAAI 2022, arXiv 2102.02696. The predicted
boundary of an image are the pixels whose probabilities differ most from those of the pixel to the right and
of that below, by the sum of both Kullback-Leibler divergences: 1 % of the image, then widened by one pixel.
Each shall differ most from that of its eight neighbours n which is nearest to the true boundary:

    min(M, 20) / 20 · cross-entropy(softmaxₙ KL(pₙ ‖ p), 0.8 for the nearest and 0.2 / 7 for the others)

M is the distance to the true boundary, less one and rounded down as in the authors' code, so that the loss of
what is right is zero. The mean over the predicted boundary is added to cross-entropy and Lovász-softmax,
without which there would be no boundaries to pull. It has no derivative by the neighbours, which would pull
against each other. Costs a third more than `ce+lovasz`, whose sorting is most of it; distances are computed
in the processes that load images.

Void counts as a true boundary, as in their code: datasets mark boundaries by it. Where the code differs from
the paper, this is as the paper: there, the others of a target have 0.2 / 8, and the predicted boundaries are
up to 1 % of one image for a whole batch, found by a threshold that grows in steps of a fifth. Pairs of pixels
of which one is void are no predicted boundary here.
"""

from __future__ import annotations

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from common.labels import VOID, valid_pixels
from methods.base import Method, cross_entropy
from methods.lovasz import lovasz_softmax

STEPS = ((1, 0), (-1, 0), (0, -1), (0, 1), (-1, 1), (1, 1), (-1, -1), (1, -1))
"""Rows and columns to the neighbours; of several that are nearest the first is taken, straight ones first."""

FLOOR = 1e-5
"""What differs by no more is no boundary."""


class ActiveBoundary(Method):
    """Cross-entropy, Lovász-softmax and the active boundary loss."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        weight: float = 1.0,
        share: float = 0.01,
        reach: float = 20.0,
        smoothing: float = 0.2,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            weight: Of the active boundary loss beside the two others; not negative.
            share: Which part of an image is predicted boundary before it is widened, in (0, 1].
            reach: From which distance in pixels on the weight of a pixel grows no more; positive.
            smoothing: What the target leaves to the seven other neighbours, in [0, 1).

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number and not negative, not {weight!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share!r}")
        if not 0 < reach < float("inf"):
            raise ValueError(f"reach must be a finite number above 0, not {reach!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, not {smoothing!r}")
        self.weight = weight
        self.share = share
        self.reach = reach
        self.smoothing = smoothing

    def prepare(self, labels: Tensor) -> Tensor:
        return boundary_distances(labels)

    def loss(self, logits: Tensor, labels: Tensor, prepared: Tensor) -> Tensor:
        logits = logits.float()
        active = active_boundary_loss(logits, labels, prepared, self.share, self.reach, self.smoothing)
        lovasz = lovasz_softmax(logits.softmax(dim=1), labels)
        return cross_entropy(logits, labels) + lovasz + self.weight * active


def boundary_distances(labels: Tensor) -> Tensor:
    """How far each pixel is from the nearest boundary, in whole pixels.

    A pixel is boundary if the label to the right or below is another, or if it is void.

    Args:
        labels: Of one image, `[H, W]`, on the CPU.

    Returns:
        Int16 `[H, W]`: the distance less one, rounded down, so 0 on both sides of a boundary; 0 everywhere if
        there is none.
    """
    boundary = labels == VOID
    boundary[:-1] |= labels[:-1] != labels[1:]
    boundary[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    if not boundary.any():
        return torch.zeros(labels.shape, dtype=torch.int16)
    distances = torch.from_numpy(distance_transform_edt(~boundary.numpy()))
    return (distances - 1).clamp(min=0).short()


def active_boundary_loss(
    logits: Tensor,
    labels: Tensor,
    distances: Tensor,
    share: float = 0.01,
    reach: float = 20.0,
    smoothing: float = 0.2,
) -> Tensor:
    """The active boundary loss alone; 0, with a gradient, if there is nothing to pull.

    Args:
        logits: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.
        distances: `boundary_distances` of each image, `[N, H, W]`.
        share: Which part of an image is predicted boundary before it is widened.
        reach: From which distance on the weight of a pixel grows no more.
        smoothing: What the target leaves to the seven other neighbours.

    Returns:
        A scalar.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    valid = valid_pixels(labels, logits.shape[1])
    scores = logits.log_softmax(dim=1)
    of_pixels = scores.movedim(1, -1)
    with torch.no_grad():
        boundary = predicted_boundary(scores, valid, share) & valid
        image, row, column = (boundary & (distances > 0)).nonzero(as_tuple=True)  # waits for a GPU
        nearest = _around(distances, image, row, column).argmin(dim=1)
        around = _around(of_pixels, image, row, column)
        weights = distances[image, row, column].to(scores.dtype).clamp(max=reach) / reach
    own = of_pixels[image, row, column].unsqueeze(1)
    divergences = (around.exp() * (around - own)).sum(dim=2)
    # PyTorch smooths with all eight, the nearest too.
    entropies = functional.cross_entropy(
        divergences, nearest, reduction="none", label_smoothing=smoothing * len(STEPS) / (len(STEPS) - 1)
    )
    return (weights * entropies).sum() / boundary.sum().clamp(min=1)


def predicted_boundary(scores: Tensor, valid: Tensor, share: float = 0.01) -> Tensor:
    """Which pixels differ most from those to the right and below, and all next to them.

    Args:
        scores: Logarithms of probabilities, `[N, K, H, W]`.
        valid: Booleans `[N, H, W]`; pairs with another pixel do not count.
        share: Of an image, how much are the first of these.

    Returns:
        Booleans `[N, H, W]`.
    """
    change = torch.zeros_like(scores[:, 0])
    probabilities = scores.exp()
    for axis in (2, 3):
        length = scores.shape[axis] - 1
        first, second = (scores.narrow(axis, start, length) for start in (0, 1))
        divergence = (probabilities.narrow(axis, 0, length) * (first - second)).sum(dim=1)
        both = valid.narrow(axis - 1, 0, length) & valid.narrow(axis - 1, 1, length)
        change.narrow(axis - 1, 0, length).add_(divergence.where(both, 0))
    of_images = change.flatten(1)
    count = min(int(share * of_images.shape[1]), of_images.shape[1] - 1)
    limit = of_images.topk(count + 1).values[:, -1:].clamp(min=FLOOR)
    first = (of_images > limit).view_as(change)
    return functional.max_pool2d(first.to(scores.dtype), 3, stride=1, padding=1) > 0


def _around(maps: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """What the eight neighbours of some pixels have; beyond the edge of an image its pixels are repeated.

    Args:
        maps: `[N, H, W, …]`.
        image: Of the pixels, `[P]`.
        row: The same.
        column: The same.

    Returns:
        `[P, 8, …]`, in the order of `STEPS`.
    """
    h, w = maps.shape[1:3]
    steps = [((row + y).clamp(0, h - 1), (column + x).clamp(0, w - 1)) for y, x in STEPS]
    return torch.stack([maps[image, y, x] for y, x in steps], dim=1)
