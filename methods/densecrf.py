"""Fully connected CRF with Gaussian edges as post-processing (Krähenbühl & Koltun, NIPS 2011).

Mean-field inference over all pairs of pixels: a Gaussian kernel of the positions removes specks, a
bilateral kernel of positions and colours pulls label borders to image borders. The unary energies
are −log of the probabilities, clipped at 1e-5; compatibility is Potts, normalisation symmetric. It
trains nothing: it refines the output of the model named by `trained_as`. One CPU core per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from methods.base import Method


class DenseCRF(Method):
    """Mean field on the image at full size, by `pydensecrf`."""

    trained_as = "ce"

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        iterations: int = 10,
        gaussian: Sequence[float] = (3, 3.0),
        bilateral: Sequence[float] = (30, 13, 10.0),
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            iterations: Mean-field updates, at least 1.
            gaussian: Standard deviation in pixels and weight of the position kernel.
            bilateral: Standard deviations in pixels and in colour (0–255) and weight of the other.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations!r}")
        for name, values, count in (("gaussian", gaussian, 2), ("bilateral", bilateral, 3)):
            if len(values) != count or not all(value > 0 for value in values):
                raise ValueError(f"{name} must be {count} positive numbers, not {values!r}")
        self.iterations = iterations
        self.gaussian = gaussian
        self.bilateral = bilateral

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        refined = [self._refine_one(*pair) for pair in zip(images, probabilities, strict=True)]
        return torch.stack(refined).to(probabilities)

    def _refine_one(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """`[3, H, W]` uint8 and `[K, H, W]` to `[K, H, W]`, float32 on the CPU."""
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_softmax

        k, h, w = probabilities.shape
        crf = DenseCRF2D(w, h, k)
        crf.setUnaryEnergy(unary_from_softmax(probabilities.float().cpu().numpy()))
        position, weight = self.gaussian
        crf.addPairwiseGaussian(sxy=position, compat=weight)
        position, colour, weight = self.bilateral
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        crf.addPairwiseBilateral(sxy=position, srgb=colour, rgbim=pixels, compat=weight)
        marginals = np.array(crf.inference(self.iterations), dtype=np.float32)
        return torch.from_numpy(marginals).view(k, h, w)
