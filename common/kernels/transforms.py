"""Whether PyTorch is about to derive or to batch in ways that operators of one's own take no part in."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


@torch.compiler.assume_constant_result
def transformed() -> bool:
    """Whether this is computed in forward mode or inside a transformation of `torch.func`.

    There, what `torch.library.custom_op` makes has no derivative: `torch.func.grad` refuses it, and in
    forward mode it counts as a constant, without a word. So plain PyTorch is to be used instead.
    """
    # Private, but PyTorch has no other way to ask; the tests notice if it goes away.
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
