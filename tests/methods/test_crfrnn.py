"""The unrolled dense CRF: at first the same as the post-processing, and trained with the network."""

from __future__ import annotations

import pytest
import torch

from methods.crfrnn import CRFRNN
from methods.densecrf import dense_crf


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 9, 10), generator=generator, dtype=torch.uint8)
    return images, torch.randn(2, 4, 9, 10, generator=generator)


def test_starts_as_the_dense_crf_on_the_grid() -> None:
    images, unary = example()
    options = {"iterations": 3, "gaussian": (1, 2.0), "bilateral": (4, 30, 3.0)}
    logits = CRFRNN(4, 1, **options).structure(images.float(), torch.empty(0), unary)
    expected = dense_crf(images, unary.softmax(1), **options)
    torch.testing.assert_close(logits.softmax(1), expected, rtol=1e-3, atol=1e-4)


def test_sees_the_image_resized_to_the_grid() -> None:
    images, unary = example()
    larger = images.repeat_interleave(8, 2).repeat_interleave(8, 3).float()
    layer = CRFRNN(4, 1)
    small = layer.structure(images.float(), torch.empty(0), unary)
    assert layer.structure(larger, torch.empty(0), unary).shape == unary.shape
    flat = layer.structure(torch.full_like(larger, 100), torch.empty(0), unary)
    assert not torch.allclose(flat, small, atol=1e-3)


def test_all_parameters_are_trained() -> None:
    images, unary = example()
    layer = CRFRNN(4, 1, iterations=2)
    unary.requires_grad_()
    layer.structure(images.float(), torch.empty(0), unary).log_softmax(1)[:, 0].sum().backward()
    for tensor in (unary, *layer.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"iterations": 0}, {"gaussian": [0, 1]}, {"bilateral": [1, 1]}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        CRFRNN(4, 1, **options)
