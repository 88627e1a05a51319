"""Dense CRF inside the network: mean-field updates unrolled and trained end to end ("CRF-RNN").

Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, arXiv 1502.03240. The
updates of `densecrf` run on the output grid with the image resized to it; differentiated are the unary scores
U, the weights of both kernels for every class, and the compatibility of labels (which starts as Potts):

    S ← U + Σ_kernels (K·softmax(S))·C·w,   logits: S after the last update

Costs a permutohedral lattice per batch and some filterings each way. The kernels' widths are not trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.base import Method
from methods.densecrf import check, crf_scores


class CRFRNN(Method):
    """A fully connected CRF on the output grid, trained with the network."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        gaussian: Sequence[float] = (1, 1.0),
        bilateral: Sequence[float] = (10, 13, 1.0),
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Mean-field updates, at least 1.
            gaussian: Standard deviation in cells of the grid and initial weight of the position kernel.
            bilateral: Standard deviations in cells and in colour (0–255) and initial weight of the other.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        check(iterations, gaussian, bilateral)
        self.iterations = iterations
        self.deviations = (gaussian[0], *bilateral[:2])
        initial = torch.tensor(
            [[gaussian[1]], [bilateral[2]]], dtype=torch.float32
        )  # the numbers may be whole
        self.weights = nn.Parameter(initial.repeat(1, num_classes))
        self.compatibility = nn.Parameter(torch.eye(num_classes))

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        # Mixed precision may give another type.
        unary = unary.to(torch.promote_types(unary.dtype, torch.float32))
        small = functional.interpolate(images.float(), unary.shape[2:], mode="bilinear", antialias=True)
        with torch.autocast(unary.device.type, enabled=False):
            weights = self.weights.to(unary)
            return crf_scores(
                small,
                unary,
                self.deviations,
                weights,  # type: ignore[arg-type]  # a tensor of two weights is a sequence of them
                self.iterations,
                self.compatibility.to(unary),
            )
