"""Dense CRF inside the network, solved by regularised Frank–Wolfe: unrolled and trained end to end.

Lê-Huu & Alahari, "Regularized Frank-Wolfe for Dense CRFs: Generalizing Mean Field and Beyond", NeurIPS 2021,
arXiv 2110.14759. It is the CRF of `crfrnn`, with kernels, class weights and compatibility of labels; the
updates are those of `crf_fw`. The logits are the logarithm of a mean of the labelling x that it ends with and
of the one that it begins with:

    log((1 − β)·x + β·softmax(U) + 1e-9)

As the projection is exactly 0 for labels that lie far behind, it is β > 0 that gives them a gradient.
Defaults are those of the authors' code: euclidean, λ = 1, α = 1, β = ½, widths 160, 13 and 3, weights 1, 5
updates. Costs a permutohedral lattice of all pixels per image, and some filterings and projections each way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from methods.crf_fw import Regulariser, Solver, check_solver
from methods.crfrnn import CRFRNN


class FrankWolfeCRFRNN(CRFRNN):
    """A fully connected CRF, trained with the network."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        test_iterations: int = 5,
        gaussian: Sequence[float] = (3, 1.0),
        bilateral: Sequence[float] = (160, 13, 1.0),
        grid: Literal["full", 1] = "full",
        regulariser: Regulariser = "euclidean",
        strength: float = 1.0,
        step: float = 1.0,
        start_share: float = 0.5,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Updates in training, at least 1.
            test_iterations: Updates afterwards, at least 1.
            gaussian: Standard deviation in pixels (or cells) and initial weight of the position kernel.
            bilateral: Standard deviations in pixels (or cells) and in colour (0–255) and initial weight of
                the other.
            grid: Where the CRF is: at the size of the network's input, or on its output grid.
            regulariser: r: half the squared norm, or the negative entropy.
            strength: λ, positive.
            step: α in (0, 1].
            start_share: β in [0, 1).

        Raises:
            ValueError: An option is out of its range.
        """
        options = (iterations, test_iterations, gaussian, bilateral, grid)
        super().__init__(num_classes, feature_channels, *options)
        check_solver(regulariser, strength, step)
        if not 0 <= start_share < 1:
            raise ValueError(f"start_share must be at least 0 and below 1, not {start_share!r}")
        self.solver_options = (regulariser, strength, step)
        self.start_share = start_share

    def solved(self, images: Tensor, unary: Tensor, weights: Sequence[Tensor], iterations: int) -> Tensor:
        solver = Solver(iterations, *self.solver_options)
        labelling = solver.labelling(images, unary, self.deviations, weights, "after")
        mixed = (1 - self.start_share) * labelling + self.start_share * unary.softmax(dim=1)
        return (mixed + 1e-9).log()
