"""What a method is: three places where structure can act, each plain cross-entropy by default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.labels import VOID


class Method(nn.Module):
    """One structured-output method. Override only what makes the method different.

    A subclass's options are the keyword arguments of its `__init__`; a ValueError that it raises for
    an impossible value is shown to the user as one sentence before anything runs.

    Attributes:
        trained_as: The config entry whose trained model this method reuses, if it trains none.
        progress: The share of training done, in [0, 1]; kept current by the training loop.
    """

    trained_as: str | None = None
    progress: float = 0.0

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        """
        Args:
            num_classes: K, the number of classes without void.
            feature_channels: C, the channels of the features in front of the classifier.
        """
        super().__init__()
        self.num_classes = num_classes
        self.feature_channels = feature_channels

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        """Inside the network: turns its own scores into structured ones.

        Args:
            images: RGB in 0–255 at the network's input size, float `[N, 3, H, W]`.
            features: What the classifier sees, `[N, C, h, w]`.
            unary: The classifier's scores, `[N, K, h, w]`.

        Returns:
            Logits on the output grid, `[N, K, h, w]`.
        """
        return unary

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In the loss.

        Args:
            logits: Upsampled to full size, `[N, K, H, W]`.
            labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

        Returns:
            A scalar to minimise.
        """
        return cross_entropy(logits, labels)

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """After the network: improves the class probabilities with the image.

        Args:
            images: The original images, uint8 `[N, 3, H, W]`.
            probabilities: `[N, K, H, W]`, summing to one over K.

        Returns:
            Refined probabilities, `[N, K, H, W]`.
        """
        return probabilities

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a model's auxiliary classifier; shapes as in `loss`."""
        return cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities `[N, K, H, W]` that sum to one over K, from logits of that shape."""
        return logits.softmax(dim=1)

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the latest `structure` or `loss`, to be logged and averaged."""
        return {}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not void; zero, with a gradient, if all are.

    Args:
        logits: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

    Returns:
        A scalar in at least float32.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = functional.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum")
    return total / (labels != VOID).sum().clamp(min=1)
