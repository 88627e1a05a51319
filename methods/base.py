"""What a method is: three places where structure can act, each plain cross-entropy by default."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.grids import Alignment, enlarged
from common.labels import VOID, valid_pixels

Refinable = Literal["trained", "softmax"]
"""Class probabilities that may be refined: those that the loss trains, or the softmax of the logits."""


class Method(nn.Module):
    """One structured-output method. Override only what makes the method different.

    A subclass's options are the keyword arguments of its `__init__`; a ValueError that it raises for
    an impossible value is shown to the user as one sentence before anything runs.

    Attributes:
        trained_as: The config entry whose trained model this method reuses, if it trains none.
        refines: What `refine` is given: `trained` are the `probabilities` of the method that was trained,
            `softmax` is the softmax of its logits; both are means over views.
        progress: The share of training done, in [0, 1]; kept current by the training loop.
        alignment: How the cells of the output grid lie on the network's input; set by the stage.
    """

    trained_as: str | None = None
    refines: Refinable = "trained"
    progress: float = 0.0
    alignment: Alignment = "middles"

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
            Logits on the output grid, `[N, K, h, w]`, or on any finer one up to `[N, K, H, W]`.
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
            probabilities: `[N, K, H, W]`, summing to one over K; of the kind that `refines` names.

        Returns:
            Refined probabilities, `[N, K, H, W]`.
        """
        return probabilities

    def auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a model's auxiliary classifier: the method's own; shapes as in `loss`."""
        return self.loss(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The class probabilities that the loss trains; calibration is theirs, views are averaged in them.

        Args:
            logits: `[N, K, H, W]`.

        Returns:
            `[N, K, H, W]`, summing to one over K and in the order of the logits.
        """
        return logits.softmax(dim=1)

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the latest `structure` or `loss`, to be logged and averaged."""
        return {}

    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        """For `structure` at full size: what the stage's bilinear upsampling makes of logits.

        Args:
            logits: On the output grid, `[N, K, h, w]`.
            images: As in `structure`, `[N, 3, H, W]`.

        Returns:
            `[N, K, H, W]`; beyond the last cell its values are repeated.
        """
        full = enlarged(logits, images.shape[2:], self.alignment)
        below, right = (side - covered for side, covered in zip(images.shape[2:], full.shape[2:]))
        return functional.pad(full, (0, right, 0, below), mode="replicate") if below or right else full


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not void; zero, with a gradient, if all are.

    Args:
        logits: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

    Returns:
        A scalar in at least float32.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    valid = valid_pixels(labels, logits.shape[1])
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = functional.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum")
    return total / valid.sum().clamp(min=1)
