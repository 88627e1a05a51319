"""Superpixels: every one gets the mean of its pixels' probabilities, and so one label.

SLIC (Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", PAMI 2012), by
scikit-image: k-means of colours (CIELAB) and positions in small windows, then a pass that joins what is not
connected. The oldest way to make labels follow the image, and a yardstick for CRFs. It trains nothing: it
refines the output of the model named by `trained_as`. Costs the k-means, on one core of a CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from methods.base import Method


class Superpixels(Method):
    """The mean probabilities in SLIC superpixels."""

    trained_as = "ce"

    def __init__(
        self, num_classes: int, feature_channels: int, pixels: int = 50, compactness: float = 10.0
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
            pixels: About how many a superpixel has, at least 4.
            compactness: The weight of positions beside colours: the larger, the more square they are.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 4 <= pixels <= 10**6:
            raise ValueError(f"pixels must be at least 4 and at most 1000000, not {pixels!r}")
        if not 0 < compactness < float("inf"):
            raise ValueError(f"compactness must be a positive number, not {compactness!r}")
        self.pixels, self.compactness = pixels, compactness

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        kind = torch.promote_types(probabilities.dtype, torch.float32)
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        results = [
            means(one.to(kind), torch.from_numpy(self.segments(picture)).to(one.device))
            for picture, one in zip(pictures, probabilities)
        ]
        return torch.stack(results).to(probabilities.dtype)

    def segments(self, picture: np.ndarray) -> np.ndarray:
        """The number of each pixel's superpixel, int64 `[H, W]`, of a picture uint8 `[H, W, 3]`."""
        from skimage.segmentation import slic  # takes a moment

        count = max(1, round(picture.shape[0] * picture.shape[1] / self.pixels))
        return slic(picture, count, self.compactness, start_label=0, channel_axis=2)


def means(values: Tensor, segments: Tensor) -> Tensor:
    """The mean of each segment, at all its pixels.

    Args:
        values: `[K, H, W]`.
        segments: The number of each pixel's segment, int64 `[H, W]`.

    Returns:
        `[K, H, W]`.
    """
    places = segments.flatten()
    sizes = places.bincount().clamp(min=1)
    sums = values.new_zeros(len(values), len(sizes)).index_add_(1, places, values.flatten(1))
    return (sums / sizes).index_select(1, places).view(values.shape)
