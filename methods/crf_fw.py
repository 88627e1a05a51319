"""Fully connected CRF solved by regularised Frank–Wolfe instead of mean field.

Lê-Huu & Alahari, "Regularized Frank-Wolfe for Dense CRFs: Generalizing Mean Field and Beyond", NeurIPS 2021,
arXiv 2110.14759. The CRF is that of `densecrf`: unary scores U = log of the probabilities, Gaussian kernels,
Potts. Its labelling is relaxed to a distribution x over the labels of each pixel, which begins as softmax(U);
an update goes a step towards the distribution that minimises the energy's linear approximation plus λ times
a regulariser r:

    x ← x + α·(s − x),   s = argmax over distributions of ⟨U + Σ_kernels weight · N·K·N·x, s⟩ − λ·r(s)

With `euclidean`, r(s) = ½‖s‖², s is the projection of the scores over λ on the simplex ("sparsemax": scores
that lie far behind become 0). With `entropy`, r(s) = Σ s·log s, it is their softmax, and λ = α = 1 is mean
field. Defaults are those of the authors' code: euclidean, λ = 1, α = 1. An update costs the filterings of one
of mean field, and a projection.

It trains nothing: it refines the output of the model named by `trained_as`. Its probabilities are those of a
relaxed labelling, mostly 0 and 1, and no marginals: calibration shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.kernels.transforms import outside
from methods.base import Method
from methods.densecrf import FLOOR, PIXELS, Normalisation, _check_input, _kernels, check

Regulariser = Literal["euclidean", "entropy"]


class FrankWolfeCRF(Method):
    """Frank–Wolfe updates on the image at full size."""

    trained_as = "ce"
    refines = "softmax"  # as densecrf

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        gaussian: Sequence[float] = (3, 3.0),
        bilateral: Sequence[float] = (30, 13, 10.0),
        regulariser: Regulariser = "euclidean",
        strength: float = 1.0,
        step: float = 1.0,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Updates, at least 1.
            gaussian: Standard deviation in pixels and weight of the position kernel.
            bilateral: Standard deviations in pixels and in colour (0–255) and weight of the other.
            regulariser: r: half the squared norm, or the negative entropy.
            strength: λ, positive.
            step: α in (0, 1].

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        check(iterations, gaussian, bilateral)
        check_solver(regulariser, strength, step)
        self.iterations, self.gaussian, self.bilateral = iterations, gaussian, bilateral
        self.regulariser, self.strength, self.step = regulariser, strength, step

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return frank_wolfe_crf(
            images,
            probabilities,
            iterations=self.iterations,
            gaussian=self.gaussian,
            bilateral=self.bilateral,
            regulariser=self.regulariser,
            strength=self.strength,
            step=self.step,
        )


def check_solver(regulariser: str, strength: float, step: float) -> None:
    """Raises a ValueError that says which option of the solver is out of its range."""
    if regulariser not in ("euclidean", "entropy"):
        raise ValueError(f"regulariser must be euclidean or entropy, not {regulariser!r}")
    if not 0 < strength < float("inf"):
        raise ValueError(f"strength must be a positive number, not {strength!r}")
    if not 0 < step <= 1:
        raise ValueError(f"step must be above 0 and at most 1, not {step!r}")


def frank_wolfe_crf(
    images: Tensor,
    probabilities: Tensor,
    *,
    iterations: int = 5,
    gaussian: Sequence[float] = (3, 3.0),
    bilateral: Sequence[float] = (30, 13, 10.0),
    regulariser: Regulariser = "euclidean",
    strength: float = 1.0,
    step: float = 1.0,
) -> Tensor:
    """The relaxed labelling of a fully connected CRF.

    Args:
        images: uint8 `[N, 3, H, W]`, on the device of the probabilities.
        probabilities: Of the labels of each pixel, `[N, K, H, W]`, in 0–1.
        iterations: Updates, at least 1.
        gaussian: Standard deviation in pixels and weight of the position kernel.
        bilateral: Standard deviations in pixels and in colour (0–255) and weight of the other.
        regulariser: r: half the squared norm, or the negative entropy.
        strength: λ, positive.
        step: α in (0, 1].

    Returns:
        `[N, K, H, W]`, summing to one over K, of the probabilities' type and differentiable by them; half is
        computed in float32.

    Raises:
        ValueError: A shape, type, device, value or an option does not fit.
    """
    check(iterations, gaussian, bilateral)
    check_solver(regulariser, strength, step)
    _check_input(images, probabilities)
    unary = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).clamp(min=FLOOR).log()
    deviations, weights = (gaussian[0], *bilateral[:2]), (gaussian[1], bilateral[2])
    solver = Solver(iterations, regulariser, strength, step)
    return solver.labelling(images, unary, deviations, weights, "symmetric").to(probabilities.dtype)


@dataclass(frozen=True)
class Solver:
    """Regularised Frank–Wolfe with constant steps.

    Attributes:
        iterations: Updates.
        regulariser: r: half the squared norm, or the negative entropy.
        strength: λ.
        step: α.
    """

    iterations: int
    regulariser: Regulariser
    strength: float
    step: float

    @torch.compiler.disable  # it has nothing that PyTorch's compiler could make faster
    def labelling(
        self,
        images: Tensor,
        unary: Tensor,
        deviations: Sequence[float],
        weights: Sequence[float | Tensor],
        normalisation: Normalisation,
    ) -> Tensor:
        """The relaxed labelling x.

        Args:
            images: `[N, 3, H, W]`, colours in 0–255.
            unary: U, `[N, K, H, W]`, float32 or float64.
            deviations: Of the position kernel in pixels, and of the bilateral one in pixels and in colour.
            weights: Of each kernel, a number, or how much the label of one pixel (column) speaks for that of
                another (row), `[K, K]`.
            normalisation: Of the kernels, as in `methods.densecrf`.

        Returns:
            `[N, K, H, W]`, summing to one over K; differentiable by unary and weights.
        """
        h, w = unary.shape[2:]
        together = max(1, PIXELS // (h * w))
        parts = []
        for some, scores in zip(images.split(together), unary.split(together)):
            with outside(some) as pixels:
                kernels = _kernels(pixels, normalisation, *deviations)
            start = scores.flatten(2).transpose(0, 1).flatten(1)  # [K, n · P]: sums over labels are fast
            labelling = start.softmax(dim=0)
            for _ in range(self.iterations):
                rows = labelling.mT.contiguous()
                message = sum(_weighted(weight, one.filter(rows)) for weight, one in zip(weights, kernels))
                best = self._best((start + message) / self.strength)
                labelling = best if self.step == 1 else torch.lerp(labelling, best, self.step)
            parts.append(labelling.unflatten(1, (-1, h, w)).transpose(0, 1))
        return torch.cat(parts)

    def _best(self, scores: Tensor) -> Tensor:
        """The distributions that steps go towards, of scores over λ, `[K, P]`."""
        return scores.softmax(dim=0) if self.regulariser == "entropy" else simplex_projection(scores)


def _weighted(weight: float | Tensor, message: Tensor) -> Tensor:
    """Messages `[P, K]` between labels, `[K, P]`."""
    return weight @ message.mT if isinstance(weight, Tensor) else (weight * message).mT


def simplex_projection(scores: Tensor) -> Tensor:
    """The nearest distributions ("sparsemax", Martins & Astudillo 2016, arXiv 1602.02068).

    `max(z − τ, 0)` with the τ that makes it sum to one. The sum is convex, piecewise linear and falling in τ,
    so a few of Newton's steps from the left, where the highest score alone would do, end at τ.

    Args:
        scores: z, `[K, P]`.

    Returns:
        `[K, P]`, summing to one over K; differentiable.
    """
    scores = scores - scores.detach().amax(dim=0)
    tau = _threshold(scores.detach())
    excess, above = _beyond(scores, tau)  # once more, for the derivative
    return (scores - (tau + excess / above)).clamp(min=0)


@torch.no_grad()
def _threshold(scores: Tensor) -> Tensor:
    """τ `[P]` of scores `[K, P]` whose highest are 0."""
    tau = scores.new_full(scores.shape[1:], -1.0)
    pixels, rest = torch.arange(scores.shape[1], device=scores.device), scores
    for _ in range(len(scores)):
        excess, above = _beyond(rest, tau[pixels])
        unfinished = (excess > 4 * torch.finfo(scores.dtype).eps).nonzero().squeeze(1)
        if not len(unfinished):
            break
        pixels, rest = pixels[unfinished], rest[:, unfinished]
        tau[pixels] += (excess / above)[unfinished]
    return tau


def _beyond(scores: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """By how much what lies above τ sums to more than one, and how many lie above it, both `[P]`."""
    parts = (scores - tau).clamp(min=0)
    return parts.sum(dim=0) - 1, parts.detach().sign().sum(dim=0)
