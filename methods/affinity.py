"""Affinity field loss (Ke et al., ECCV 2018, arXiv 1803.10335), in the form that the RMI paper compares with.

Cross-entropy, plus a loss on how the probabilities of a pixel i and each of its 8 neighbours j relate, per
class k, at 1/8 of the resolution (Zhao et al., NeurIPS 2019, arXiv 1910.12037):

    KL = q·log(q / p) + q'·log(q' / p'),   p = pᵢ(k), q = pⱼ(k), p' = 1 − p + 1e-4, q' = 1 − q + 1e-4
    20^(−progress) · (mean of max(0, 3 − KL) over edges + mean of KL over non-edges)

At an edge, exactly one of the two pixels is labelled k; their probabilities shall differ by a margin,
elsewhere they shall agree. Probabilities are softmax, at least 1e-4. Its part fades in the course of
training. Costs little: the maps are 64 times smaller than the image.

Where the two codes differ:

- The decay is 20^(−progress), as in the RMI paper's code; Ke et al. have 10^(−progress) (`decay: 10`).
- Pairs with a void pixel, or with one outside the image, do not count, as in Ke et al.'s code; in the RMI
  paper's they do, with label and probabilities 0. Ke et al.'s leaves out more: also the pair of a pixel with
  the neighbour opposite to a void one.
- p' and the reduction to 1/8 are those of the RMI paper's code: labels are those of the upper left pixels of
  8×8, logits are resized with aligned corners. Ke et al. have max(1 − p, 1e-4) and the network's own grid.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from common.labels import valid_pixels
from methods.base import Method, cross_entropy

STRIDE = 8
FLOOR = 1e-4


class Affinity(Method):
    """Cross-entropy and the affinity field loss."""

    def __init__(
        self, num_classes: int, feature_channels: int, margin: float = 3.0, decay: float = 20.0
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            margin: By which divergence the two sides of an edge shall differ, not negative.
            decay: How many times smaller the part of affinity is at the end of training, at least 1.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= margin < float("inf"):
            raise ValueError(f"margin must be a finite number and not negative, not {margin!r}")
        if not 1 <= decay < float("inf"):
            raise ValueError(f"decay must be a finite number of at least 1, not {decay!r}")
        self.margin = margin
        self.decay = decay

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        size = [side // STRIDE for side in labels.shape[1:]]
        if 0 in size:
            raise ValueError(f"an image of {[*labels.shape[1:]]} cannot be made {STRIDE} times smaller")
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        smaller = functional.interpolate(logits, size, mode="bilinear", align_corners=True)
        nearest = functional.interpolate(labels.unsqueeze(1).double(), size, mode="nearest").squeeze(1)
        field = affinity_field(smaller.softmax(dim=1), nearest.long(), self.margin)
        return cross_entropy(logits, labels) + self.decay**-self.progress * field


def affinity_field(probabilities: Tensor, labels: Tensor, margin: float = 3.0) -> Tensor:
    """The affinity field loss without its decay.

    Args:
        probabilities: `[N, K, h, w]`.
        labels: Integers `[N, h, w]` in 0..K−1, or 255 for void.
        margin: In units of the divergence.

    Returns:
        A scalar; where there are no edges, or no non-edges, their part is 0.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    own = probabilities.clamp(FLOOR, 1)
    classes = torch.arange(probabilities.shape[1], device=labels.device).view(-1, 1, 1)
    truth = labels.unsqueeze(1) == classes
    # Beyond the margin of the image everything is void.
    others = _neighbours(functional.pad(own, [1] * 4, value=1.0))
    other_truth = _neighbours(functional.pad(truth, [1] * 4))
    known = valid_pixels(labels, probabilities.shape[1])
    counts = known[:, None, None] & _neighbours(functional.pad(known, [1] * 4).unsqueeze(1))
    own, truth = own.unsqueeze(1), truth.unsqueeze(1)
    divergence = _divergence(others, own) + _divergence(1 - others + FLOOR, 1 - own + FLOOR)
    edges = (truth != other_truth) & counts
    same = (truth == other_truth) & counts
    return _mean(functional.relu(margin - divergence), edges) + _mean(divergence, same)


def _neighbours(padded: Tensor) -> Tensor:
    """From `[N, C, h + 2, w + 2]` what the 8 neighbours of every pixel have, `[N, 8, C, h, w]`."""
    h, w = padded.shape[2] - 2, padded.shape[3] - 2
    shifts = [shift for shift in itertools.product(range(3), repeat=2) if shift != (1, 1)]
    return torch.stack([padded[:, :, y : y + h, x : x + w] for y, x in shifts], dim=1)


def _divergence(q: Tensor, p: Tensor) -> Tensor:
    return q * (q / p).log()


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values.where(chosen, 0).sum() / chosen.sum().clamp(min=1)
