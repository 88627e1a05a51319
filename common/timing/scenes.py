"""Made-up inputs for what is timed: the same every time on one kind of device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from common.labels import VOID

Size = Sequence[int]
"""N, K, and height and width."""

BLOCK = 16
"""Labels are alike in blocks of so many pixels square."""

SHADE = 30
"""Colours change smoothly over so many pixels."""


def normal(shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Normal numbers with a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn([*x], generator=generator, device=device).requires_grad_() for x in shapes]


def label_maps(size: Size, device: torch.device) -> Tensor:
    """Labels `[N, H, W]`, int64, alike in blocks, a tenth of them void."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n, h // BLOCK + 1, w // BLOCK + 1), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = VOID
    labels = labels.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return labels[:, :h, :w].contiguous().to(device)


def images(size: Size, device: torch.device) -> Tensor:
    """Images of smooth shades and noise, uint8 `[N, 3, H, W]`."""
    n, _, h, w = size
    generator = torch.Generator().manual_seed(0)
    shades = 255 * torch.rand(n, 3, h // SHADE + 1, w // SHADE + 1, generator=generator)
    smooth = functional.interpolate(shades, (h, w), mode="bilinear")
    noise = 6 * torch.randn(n, 3, h, w, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8).to(device)


def probabilities(size: Size, device: torch.device) -> Tensor:
    """Smooth probabilities `[N, K, H, W]` of labels."""
    n, k, h, w = size
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, h // BLOCK + 1, w // BLOCK + 1, generator=generator)
    return functional.interpolate(logits, (h, w), mode="bilinear").softmax(1).to(device)
