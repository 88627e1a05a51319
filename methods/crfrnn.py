"""Dense CRF inside the network: mean-field updates unrolled and trained end to end ("CRF-RNN").

Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, arXiv 1502.03240, as in
the authors' code: the network's scores U are upsampled to the size of its input; then, with the Gaussian
kernels K₁ of positions and K₂ of positions and colours, normalised to means,

    S ← U + C·(W₁·K₁·softmax(S) + W₂·K₂·softmax(S)),   logits: S after the last update

The class weights W (which start as multiples of the identity) and the compatibility of labels C (which starts
as Potts) are matrices `[K, K]` and trained with the network; the kernels' widths are not. There are 5 updates
in training and 10 afterwards, when gradients need not go through them. Costs a permutohedral lattice of all
pixels per image and some filterings each way. The pixels by which an input is padded take part, as they do
there; other than there, network and CRF are trained together from the start.

`grid: 1` is a cheaper form that was not published: the same updates on the network's output grid,
with the image resized to it. In the configuration it is the entry `crfrnn-grid`, with narrower kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.base import Method
from methods.densecrf import check, crf_scores


class CRFRNN(Method):
    """A fully connected CRF, trained with the network."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 5,
        test_iterations: int = 10,
        gaussian: Sequence[float] = (3, 3.0),
        bilateral: Sequence[float] = (160, 3, 5.0),
        grid: Literal["full", 1] = "full",
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Mean-field updates in training, at least 1.
            test_iterations: Mean-field updates afterwards, at least 1.
            gaussian: Standard deviation in pixels (or cells) and initial weight of the position kernel.
            bilateral: Standard deviations in pixels (or cells) and in colour (0–255) and initial weight of
                the other.
            grid: Where the CRF is: at the size of the network's input, or on its output grid.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        check(iterations, gaussian, bilateral)
        if not 1 <= test_iterations <= 1000:
            raise ValueError(f"test_iterations must be at least 1 and at most 1000, not {test_iterations!r}")
        if grid not in ("full", 1):
            raise ValueError(f"grid must be full or 1, not {grid!r}")
        self.iterations, self.test_iterations = iterations, test_iterations
        self.deviations = (gaussian[0], *bilateral[:2])
        self.grid = grid
        self.position_weights = nn.Parameter(gaussian[1] * torch.eye(num_classes))
        self.bilateral_weights = nn.Parameter(bilateral[2] * torch.eye(num_classes))
        self.compatibility = nn.Parameter(torch.eye(num_classes))

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        # Mixed precision may give another type.
        unary = unary.to(torch.promote_types(unary.dtype, torch.float32))
        images = images.float()
        if self.grid == "full":
            unary = self.enlarged(unary, images)
        else:
            images = functional.interpolate(images, unary.shape[2:], mode="bilinear", antialias=True)
        iterations = self.iterations if self.training else self.test_iterations
        with torch.autocast(unary.device.type, enabled=False):
            weights = [
                self.compatibility.to(unary) @ matrix.to(unary)
                for matrix in (self.position_weights, self.bilateral_weights)
            ]
            return self.solved(images, unary, weights, iterations)

    def solved(self, images: Tensor, unary: Tensor, weights: Sequence[Tensor], iterations: int) -> Tensor:
        """The logits after so many updates, for `structure`.

        Args:
            images: At the size of the scores, `[N, 3, H, W]`.
            unary: `[N, K, H, W]`.
            weights: Of each kernel, how much one label speaks for another, `[K, K]`.
            iterations: How many updates.
        """
        return crf_scores(images, unary, self.deviations, weights, iterations, "after")
