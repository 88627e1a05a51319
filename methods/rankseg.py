"""RankSEG-RMA: labels that maximise the expected IoU or Dice of an image, instead of the most probable ones.

Wang & Dai, "RankSEG-RMA: An Efficient Segmentation Algorithm via Reciprocal Moment Approximation", NeurIPS
2025, arXiv 2510.15362, after Dai & Li, "RankSEG", JMLR 2023. Pixels are taken as independent given the image,
and the expected ratio is approximated by the ratio of expectations: with p the probabilities of a class and m
their sum over the image, its pixels are the set S that maximises

    IoU:   Σ_S p / (m − Σ_S p + |S|)            Dice:   2·Σ_S p / (m + |S| + 1)

which is all pixels above a threshold. Classes whose highest probability is at most `pruning` get none.
A pixel that several classes want goes to the one of them whose ratio gains most by it, and a pixel that none
wants to the one of all classes that are not pruned (of all, if all are); gains are reckoned from the pixels
that one class alone wants. That is how the authors' package (rankseg 0.0.8) does it.

It trains nothing: it decides on the output of the model named by `trained_as`. It is made for scores that are
computed per image, and takes probabilities at their word: those of a network that is less sure than it is
right (calibration shows it) give worse labels than the most probable ones. Costs some passes over the
probabilities: the threshold is found by Dinkelbach's iteration (1967), without sorting.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.base import Method

Metric = Literal["iou", "dice"]

ITERATIONS = 100
"""More than Dinkelbach's iteration, which converges superlinearly, ever takes."""


class RankSEG(Method):
    """A decision rule on the probabilities that the loss trains."""

    trained_as = "ce"

    def __init__(
        self, num_classes: int, feature_channels: int, metric: Metric = "iou", pruning: float = 0.5
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            metric: What is maximised, expected over an image and averaged over classes.
            pruning: A class is left out of an image where no pixel has a higher probability of it, in [0, 1).

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        _check(metric, pruning)
        self.metric, self.pruning = metric, pruning

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return ranked_labels(probabilities, metric=self.metric, pruning=self.pruning)


def _check(metric: str, pruning: float) -> None:
    """Raises a ValueError that says which option is out of its range."""
    if metric not in ("iou", "dice"):
        raise ValueError(f"metric must be iou or dice, not {metric!r}")
    if not 0 <= pruning < 1:
        raise ValueError(f"pruning must be at least 0 and below 1, not {pruning!r}")


@torch.no_grad()
def ranked_labels(probabilities: Tensor, *, metric: Metric = "iou", pruning: float = 0.5) -> Tensor:
    """The labels that maximise the approximate expected IoU or Dice of each image.

    Args:
        probabilities: `[N, K, H, W]`, summing to one over K; half precision is computed in float32.
        metric: What is maximised.
        pruning: A class is left out of an image where no pixel has a higher probability of it.

    Returns:
        Integers `[N, H, W]` in 0..K−1.

    Raises:
        ValueError: An option is out of its range.
    """
    _check(metric, pruning)
    if probabilities.dtype.itemsize < 4:
        probabilities = probabilities.float()
    p = probabilities.flatten(2)
    mass, kept = p.sum(dim=2), p.amax(dim=2) > pruning
    wanted = _above(p, _best_threshold(p, mass, metric)) * kept.unsqueeze(2)
    claims = wanted.sum(dim=1, keepdim=True)
    gains = _gains(p, mass, wanted * (claims == 1), metric)
    eligible = kept | ~kept.any(dim=1, keepdim=True)
    candidates = wanted.addcmul_((claims == 0).to(p.dtype), eligible.to(p.dtype).unsqueeze(2))
    labels = gains.masked_fill_(candidates == 0, -torch.inf).max(dim=1).indices  # argmax is slower (CPU)
    return labels.unflatten(1, probabilities.shape[2:])


def _best_threshold(p: Tensor, mass: Tensor, metric: Metric) -> Tensor:
    """The threshold above which each class has its own best set of pixels, `[N, K]`.

    A set's ratio is A/B, and the best set maximises A − r·B for the best ratio r. Dinkelbach's iteration
    takes the r of the last such set for the next.

    Args:
        p: `[N, K, P]`.
        mass: Their sums, `[N, K]`.
        metric: What is maximised.
    """
    threshold, ratio = torch.full_like(mass, 0.5), torch.full_like(mass, -1)
    for _ in range(ITERATIONS):
        beyond = (p - threshold.unsqueeze(2)).clamp_(min=0)
        total = beyond.sum(dim=2)
        size = beyond.sign_().sum(dim=2)
        inside = total + threshold * size
        latest = inside / (mass - inside + size) if metric == "iou" else 2 * inside / (mass + size + 1)
        latest = latest.nan_to_num()  # of a class without any probability
        if not (latest > ratio).any():
            break
        ratio = torch.maximum(ratio, latest)
        threshold = ratio / (1 + ratio) if metric == "iou" else ratio / 2
    return threshold


def _above(p: Tensor, threshold: Tensor) -> Tensor:
    """1 where p `[N, K, P]` is above its class's threshold `[N, K]`, else 0; of p's type, as that is fast."""
    return (p - threshold.unsqueeze(2)).clamp_(min=0).sign_()


def _gains(p: Tensor, mass: Tensor, certain: Tensor, metric: Metric) -> Tensor:
    """By how much each pixel would raise each class's ratio, `[N, K, P]`.

    Args:
        p: `[N, K, P]`.
        mass: Their sums, `[N, K]`.
        certain: 1 for the pixels that a class has already, else 0; `[N, K, P]`.
        metric: What is maximised.
    """
    inside, size = (part.sum(dim=2, keepdim=True) for part in (p * certain, certain))
    mass = mass.unsqueeze(2)
    if metric == "dice":
        rest = mass + size + 1
        return (p - inside / rest) * (2 / (rest + 1))
    rest = mass - inside + size
    others = 1 - p
    return (p - (inside / rest).nan_to_num() * others) / (rest + others)
