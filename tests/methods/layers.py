"""What tests of CRFs inside a network share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from methods.base import Method

CLASSES = 3

Layer = TypeVar("Layer", bound=Method)


def example(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Two images and the scores of their pixels."""
    generator = torch.Generator().manual_seed(0)
    images = 60 * torch.rand(2, 3, h, w, generator=generator, dtype=torch.double)
    return images, 3 * torch.randn(2, CLASSES, h, w, generator=generator, dtype=torch.double)


def moved(method: Layer, by: float) -> Layer:
    """A layer in float64 whose parameters are not those that it starts with."""
    method = method.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return method


def has_right_derivatives(method: Method, images: Tensor, unary: Tensor, fast: bool = False) -> bool:
    """Whether the derivatives of `structure` by scores and parameters are those of finite differences.

    Args:
        method: The layer, in float64.
        images: `[N, 3, H, W]`.
        unary: `[N, K, h, w]`.
        fast: Whether they are compared along one direction alone.
    """
    names = [name for name, _ in method.named_parameters()]
    assert names

    def logits(unary: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(method, state, (images, unary))

    method.forward = lambda images, unary: method.structure(images, unary, unary)
    inputs = [unary, *(parameter.detach() for parameter in method.parameters())]
    return torch.autograd.gradcheck(logits, [x.requires_grad_() for x in inputs], fast_mode=fast)


def computes_in_float32(method: Method) -> bool:
    """Whether scores in half precision give the logits of the same scores in float32, autocast or not."""
    images, unary = (x.float() for x in example(8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        result = method.structure(images, unary, unary.bfloat16())
    expected = method.structure(images, unary, unary.bfloat16().float())
    return result.dtype == expected.dtype and torch.allclose(result, expected, rtol=1.3e-6, atol=1e-5)
