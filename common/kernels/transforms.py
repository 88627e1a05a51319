"""Whether PyTorch is about to derive or to batch in ways that operators of one's own take no part in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


@torch.compiler.assume_constant_result
def transformed() -> bool:
    """Whether this is computed in forward mode or inside a transformation of `torch.func`.

    There, what `torch.library.custom_op` makes has no derivative: `torch.func.grad` refuses it, and in
    forward mode it counts as a constant, without a word. So plain PyTorch is to be used instead.
    """
    # Private, but PyTorch has no other way to ask; the tests notice if it goes away.
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def outside(tensor: Tensor) -> Iterator[Tensor]:
    """A context in which is computed as if outside of derivatives and transformations of `torch.func`.

    Args:
        tensor: What is computed with, as a constant.

    Yields:
        The tensor as it is outside; if it is batched by `torch.func.vmap`, nothing changes.
    """
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        yield tensor
        return
    with temporarily_clear_interpreter_stack(), torch.no_grad():
        yield tensor
