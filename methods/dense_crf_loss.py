"""Dense CRF loss: pixels of like colour near each other shall have like probabilities.

Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018, arXiv 1803.09569. To
cross-entropy comes the energy of a fully connected CRF with a Potts model, relaxed to softmax probabilities:

    weight · Σₖ Sₖᵀ·W·(1 − Sₖ),   W a Gaussian of positions and colours, over all pairs of pixels of an image

mean over images, at half resolution. It needs no labels: it was made for scribbles, where it says what the
others should be. With all labels it is one more reason to put boundaries where colours change. As a sum over
pairs, it weighs less in small images: the weight of 2e-9 is for crops of 513 pixels.

W is a permutohedral lattice (`common/kernels/lattice.py`). As in the authors' code, it is not normalised, and
images are made smaller by leaving out pixels, probabilities by averaging. There, Σₖ Sₖᵀ·W·1 is left out, a
constant without which values are negative; and W counts as symmetric, which a lattice nearly is. Void takes
no part. Costs about six times `ce`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from common.kernels.lattice import Lattice
from common.kernels.transforms import outside
from common.labels import valid_pixels
from methods.base import Method, cross_entropy


class DenseCRFLoss(Method):
    """Cross-entropy and the energy of a fully connected CRF."""

    def __init__(
        self,
        num_classes: int,
        feature_channels: int,
        weight: float = 2e-9,
        sigma_xy: float = 100.0,
        sigma_rgb: float = 15.0,
        stride: int = 2,
    ) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C.
            weight: Of the energy beside cross-entropy; not negative.
            sigma_xy: Standard deviation of positions in pixels of the image.
            sigma_rgb: Standard deviation of colours, which are in 0–255.
            stride: How many times smaller images and probabilities are made, at least 1.

        Raises:
            ValueError: An option is out of its range.
        """
        super().__init__(num_classes, feature_channels)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number and not negative, not {weight!r}")
        for name, value in (("sigma_xy", sigma_xy), ("sigma_rgb", sigma_rgb)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, not {stride!r}")
        self.weight = weight
        self.sigma_xy = sigma_xy
        self.sigma_rgb = sigma_rgb
        self.stride = stride

    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        options = (self.sigma_xy, self.sigma_rgb, self.stride)
        energy = dense_crf_energy(logits.softmax(dim=1), labels, images, *options)
        return cross_entropy(logits, labels) + self.weight * energy


def dense_crf_energy(
    probabilities: Tensor,
    labels: Tensor,
    images: Tensor,
    sigma_xy: float = 100.0,
    sigma_rgb: float = 15.0,
    stride: int = 2,
) -> Tensor:
    """The energy of a fully connected CRF, mean over images.

    Args:
        probabilities: `[N, K, H, W]`, summing to one over K.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void; no matter which class.
        images: Colours in 0–255, `[N, 3, H, W]`.
        sigma_xy: Standard deviation of positions in pixels.
        sigma_rgb: Standard deviation of colours.
        stride: How many times smaller all is made first.

    Returns:
        A scalar, not negative but for rounding. Squares of pixels of which one is void take no part.

    Raises:
        ValueError: An image is smaller than the stride, or a label is neither a class nor void (on a GPU the
            program ends, later).
    """
    if min(labels.shape[1:]) < stride:
        raise ValueError(f"an image of {[*labels.shape[1:]]} cannot be made {stride} times smaller")
    void = ~valid_pixels(labels, probabilities.shape[1])
    smaller = functional.avg_pool2d(probabilities, stride)
    void = functional.max_pool2d(void.unsqueeze(1).to(smaller.dtype), stride) > 0
    with outside(images) as pixels:
        colours = pixels[:, :, ::stride, ::stride][..., : smaller.shape[2], : smaller.shape[3]]
        lattice = Lattice(_points(colours, sigma_xy / stride, sigma_rgb))
    of_pixels = smaller.masked_fill(void, 0).movedim(1, -1).flatten(0, 2)
    filtered = lattice.filter(of_pixels)
    constant = filtered.detach()[~void.flatten()].sum()  # of all pairs, because probabilities sum to one
    return (constant - (of_pixels * filtered).sum()) / len(images)


def _points(images: Tensor, sigma_xy: float, sigma_rgb: float) -> Tensor:
    """Positions and colours of pixels in units of their standard deviations, `[N, H · W, 5]`."""
    n, _, h, w = images.shape
    rows, columns = torch.meshgrid(
        *(torch.arange(side, device=images.device) for side in (h, w)), indexing="ij"
    )
    places = (torch.stack([columns, rows]) / sigma_xy).expand(n, -1, -1, -1)
    return torch.cat([places, images.float() / sigma_rgb], dim=1).flatten(2).mT
