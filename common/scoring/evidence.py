"""What scoring needs of the probabilities of an image: a few numbers per pixel, of however many classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.kernels import counts


class Evidence(NamedTuple):
    """What is left of the probabilities of an image.

    Attributes:
        labels: The most probable class, the first of those, uint8 `[H, W]`.
        confidence: Its probability, float32 `[H, W]`.
        likelihood: The probability of the truth, of void that of any class, float32 `[H, W]`.
        sums: The lowest and the highest sum over classes, float32 `[2]`; no numbers if a probability is none.
    """

    labels: Tensor
    confidence: Tensor
    likelihood: Tensor
    sums: Tensor

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor) -> Evidence:
        """The evidence of an image.

        Args:
            probabilities: `[K, H, W]`, on any device, which is not waited for.
            labels: The truth, uint8 `[H, W]` on the same device.
        """
        if probabilities.device.type == "cpu" and probabilities.dtype != torch.float64:
            compiled = counts.evidence(probabilities, labels)
            if compiled:
                return cls(*compiled)
        confidence, guess = probabilities.max(dim=0)
        truth = labels.clamp(max=len(probabilities) - 1).long().unsqueeze(0)
        likelihood = probabilities.gather(0, truth).squeeze(0).float()
        sums = torch.stack(probabilities.sum(dim=0, dtype=torch.float32).aminmax())
        return cls(guess.to(torch.uint8), confidence.float(), likelihood, sums)
