"""DD-CRF with the best labelling of its own scores: is inference to blame, or are the scores?

Trained exactly as `ddcrf` is (`ddcrf.py`; with the same options and seed it is the same model), it differs
in scoring: where the labelling of the highest score is another than the decomposition's, its label changes
places with the one on top; the logits of all other cells stay. So a row beside `ddcrf` shows what exact
inference would change: if it is better, inference was to blame; if it is not, the scores were learned for the
few iterations that they were trained with.

The best labelling is found, and proven, by toulbar2 (Allouche et al., "Anytime Hybrid Best-First Search with
Tree Decomposition for Weighted CSP", CP 2015; package `pytoulbar2`): branch and bound on the CPU, one image
after the other, on scores rounded to 1e-6. Grids of some hundred cells are its limit, and only if scores are
clear; what it cannot prove in `seconds` of one core stays as the decomposition has it, and the diagnostic
`proven` says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.ddcrf import DDCRF, _edges, _score

DECIMALS = 6
"""Digits behind the point that are kept of scores."""


class DDCRFExact(DDCRF):
    """A grid CRF trained by dual decomposition and read by exact inference."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        gaps: int = 2,
        gamma: float = 2.0,
        gamma_end: float | None = None,
        learn_gamma: bool = False,
        accelerate: bool = False,
        seconds: int = 10,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            iterations: As in `ddcrf`, and all that follow.
            gaps: Number of gaps.
            gamma: γ.
            gamma_end: Where γ goes to in training, if anywhere.
            learn_gamma: Whether γ is a parameter.
            accelerate: Whether to take longer steps.
            seconds: Of one core that the search for the best labelling of an image may take.

        Raises:
            ValueError: An option is out of its range.
        """
        options = (iterations, gaps, gamma, gamma_end, learn_gamma, accelerate)
        super().__init__(num_classes, feature_channels, *options)
        if not 1 <= seconds <= 86400:
            raise ValueError(f"seconds must be at least 1 and at most 86400, not {seconds!r}")
        self.seconds = seconds
        self._difference: dict[str, float] = {}

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        logits = super().structure(images, features, unary)
        if self._latest is None:
            return logits
        unary, left, right = self._latest
        horizontal, vertical = _edges(left, right, range(1, self.gaps + 1))
        own = logits.detach().argmax(dim=1)
        best, proven = own.clone(), 0
        for n in range(len(own)):
            one, *scores = (x[n].detach().double().cpu() for x in (unary, *horizontal, *vertical))
            labels = best_labelling(one, scores[: self.gaps], scores[self.gaps :], self.seconds)
            if labels is not None:
                best[n], proven = labels, proven + 1
        gained = _score(best, unary, horizontal, vertical) - _score(own, unary, horizontal, vertical)
        self._difference = {
            "proven": proven / len(own),
            "best_above_per_cell": float(gained.mean()) / own[0].numel(),
            "same_as_best": float((best == own).double().mean()),
        }
        return exchanged(logits, own, best)

    def diagnostics(self) -> dict[str, float]:
        """Those of `ddcrf`, and in evaluation mode how far its latest labelling is from the best one.

        `proven` is the share of images whose best labelling is known; over all images, `best_above_per_cell`
        is how much higher the best score is, per cell, and `same_as_best` the share of cells that agree.
        """
        return super().diagnostics() | (self._difference if self._latest is not None else {})


def exchanged(logits: Tensor, own: Tensor, best: Tensor) -> Tensor:
    """Logits `[N, K, h, w]` in which those of two labels `[N, h, w]` of each cell have changed places."""
    one, other = own.unsqueeze(1), best.unsqueeze(1)
    by_other = logits.scatter(1, one, logits.gather(1, other))
    return by_other.scatter(1, other, logits.gather(1, one))


def best_labelling(
    unary: Tensor, horizontal: list[Tensor], vertical: list[Tensor], seconds: int
) -> Tensor | None:
    """The labelling of the highest score of one image.

    Args:
        unary: Scores of the labels of each cell, `[K, h, w]`, in float64 on the CPU, as all that follow.
        horizontal: Item g−1 scores the labels of cells (r, c) and (r, c+g): `[K, K, h, max(0, w−g)]`.
        vertical: Item g−1 scores the labels of cells (r, c) and (r+g, c): `[K, K, max(0, h−g), w]`.
        seconds: Of one core that it may take.

    Returns:
        Labels `[h, w]`; None if none is proven to be the best in that time.

    Raises:
        ValueError: The package is not installed.
    """
    k, h, w = unary.shape
    network = _toulbar2(1 + sum(float(_costs(x).sum()) for x in (unary, *horizontal, *vertical) if x.numel()))
    for cell in range(h * w):
        network.AddVariable(f"x{cell}", range(k))
    for cell, costs in enumerate(_costs(unary).flatten(1).t().tolist()):
        network.AddFunction([cell], costs)
    for gap, maps in enumerate(zip(horizontal, vertical), 1):
        for scores, step in zip(maps, (gap, gap * w)):
            if not scores.numel():
                continue
            first = torch.arange(h * w).view(h, w)[: scores.shape[2], : scores.shape[3]].flatten().tolist()
            for cell, costs in zip(first, _costs(scores).flatten(2).permute(2, 0, 1).flatten(1).tolist()):
                network.AddFunction([cell, cell + step], costs)
    solution = network.Solve(timeLimit=seconds)
    if solution is None or solution[1] - network.GetDDualBound() > 0.5 * 10**-DECIMALS:
        return None
    return torch.tensor(solution[0]).view(h, w)


def _costs(scores: Tensor) -> Tensor:
    """By how much each score of a cell or an edge, the last two dimensions, is below its highest one."""
    return scores.flatten(0, -3).amax(dim=0) - scores


def _toulbar2(bound: float) -> Any:
    """An empty problem of toulbar2; every labelling must cost less than the bound."""
    try:
        import pytoulbar2
    except ImportError as error:
        raise ValueError("it needs the package pytoulbar2: pip install -r requirements-extra.txt") from error
    network = pytoulbar2.CFN(ubinit=bound, resolution=DECIMALS)
    network.Option.verbose = -1
    network.Option.showSolutions = 0
    return network
