"""The values of label maps: 0 to K − 1 are classes, and one is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

VOID = 255
"""The label of pixels that are neither trained nor scored."""


def valid_pixels(labels: Tensor, num_classes: int, void: int = VOID) -> Tensor:
    """Which pixels have a class; labels that are neither a class nor void are refused.

    Labels on a GPU are looked at there, and nothing waits for it: an illegal one ends the program with
    `device-side assert`, at some later operation.

    Args:
        labels: Integers of any shape.
        num_classes: K.
        void: The label of void. It may be one of 0..K−1, which is no class then.

    Returns:
        Booleans of the shape of the labels, False where they are void.

    Raises:
        ValueError: The labels are no integers, or on a CPU one is neither in 0..K−1 nor void.
    """
    import torch  # this module is imported by verbs that need no PyTorch

    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, not {str(labels.dtype).removeprefix('torch.')}")
    valid = labels != void
    low, high = labels.where(valid, 0).aminmax() if labels.numel() else (labels.sum(), labels.sum())
    legal = (low >= 0) & (high < num_classes)
    message = f"labels must be in 0..{num_classes - 1}, or {void} for void"
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        torch._assert_async(legal, message)
    elif not legal:
        raise ValueError(f"{message}, and one is {int(low if low < 0 else high)}")
    return valid
