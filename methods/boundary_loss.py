"""Boundary loss: probabilities are paid for by their distance to the true boundary.

Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019 and Medical Image Analysis
2021, arXiv 1812.07032. With φₖ the signed distance of a pixel to the region of class k and p the softmax
probabilities:

    (1 − α)·cross-entropy + α·mean over pixels and classes of pₖ·φₖ,   α from 0.01 to 1 during training

where cross-entropy keeps at least a tenth, as in the authors' code; their regional loss is generalised Dice.
Outside, φₖ is the distance in pixels to the nearest pixel of the class; inside, it is one less than that to
the nearest pixel of another or of void, with a minus; of classes that are not in the image it is 0. So the
loss of good predictions is negative. It was made for small lesions in medical images; what it gains on street
scenes is contested.

Distances are computed in the processes that load images, in some milliseconds per class and image, in half
precision, which rounds them by at most 0.05 %. Costs two to three times `ce`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from common.labels import valid_pixels
from methods.base import Method, cross_entropy

LEAST = 0.1
"""The share of cross-entropy falls no lower."""


class Boundary(Method):
    """Cross-entropy, and more and more boundary loss."""

    def __init__(
        self, num_classes: int, feature_channels: int, alpha: float = 0.01, alpha_end: float = 1.0
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            alpha: α at the start of training, in [0, 1].
            alpha_end: α at its end, in [0, 1].

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        for name, value in (("alpha", alpha), ("alpha_end", alpha_end)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {value!r}")
        self.alpha = alpha
        self.alpha_end = alpha_end

    def prepare(self, labels: Tensor) -> Tensor:
        return signed_distances(labels, self.num_classes)

    def loss(self, logits: Tensor, labels: Tensor, prepared: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        share = self.alpha + (self.alpha_end - self.alpha) * self.progress
        boundary = boundary_loss(logits.softmax(dim=1), labels, prepared)
        return max(LEAST, 1 - share) * cross_entropy(logits, labels) + share * boundary


def signed_distances(labels: Tensor, num_classes: int) -> Tensor:
    """How far each pixel is from the region of each class, in pixels; negative inside.

    Args:
        labels: Of one image, integers `[H, W]` in 0..K−1, or another for void, on the CPU.
        num_classes: K.

    Returns:
        Half precision `[K, H, W]`; 0 of classes that are not there, and of one that is everywhere.
    """
    pixels = labels.numpy()
    result = np.zeros((num_classes, *pixels.shape), dtype=np.float16)
    regions = np.unique(pixels)
    if len(regions) == 1:
        return torch.from_numpy(result)
    outside = np.stack([distance_transform_edt(pixels != region) for region in regions])
    # What is nearest of all that a pixel is not, void included.
    inside = np.where(outside > 0, outside, np.inf).min(axis=0)
    for region, distances in zip(regions, outside):
        if region < num_classes:
            result[region] = np.where(pixels == region, 1 - inside, distances)
    return torch.from_numpy(result)


def boundary_loss(probabilities: Tensor, labels: Tensor, distances: Tensor) -> Tensor:
    """The boundary loss alone, which can be negative; 0, with a gradient, if all pixels are void.

    Args:
        probabilities: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.
        distances: `signed_distances` of each image, `[N, K, H, W]`.

    Returns:
        A scalar, the mean over the pixels that are not void and over classes.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    valid = valid_pixels(labels, probabilities.shape[1])
    total = (probabilities * distances).sum(dim=1).where(valid, 0).sum()
    return total / (probabilities.shape[1] * valid.sum().clamp(min=1))
