"""Temperature scaling: one number that makes probabilities as sure as they are right, after the network.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599. The scores of all classes
are divided by a temperature T > 0, which minimises the cross-entropy (the negative log-likelihood) of images
that the network was not trained on: T > 1 if it is too sure of itself. Their order stays as it is, and so do
labels, but for ties of rounding; calibration alone changes, and what is made of the probabilities afterwards.

The published code finds T by L-BFGS on all images at once; here log T is trained by gradient descent as any
method is, on batches. As the cross-entropy is convex in 1/T, both have one end to go to; how close an entry
comes depends on its settings of training, of which the network's own are no good choice for one number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.base import Method


class Temperature(Method):
    """The network's scores over T, with log T as the parameter, so that T stays positive; at first T is 1."""

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        """
        Args:
            num_classes: K.
            feature_channels: C; not used.
        """
        super().__init__(num_classes, feature_channels)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        unary = unary.to(torch.promote_types(unary.dtype, torch.float32))
        return unary * (-self.log_temperature).exp()

    def diagnostics(self) -> dict[str, float]:
        """T, as it is now."""
        return {"temperature": self.log_temperature.detach().exp().item()}
