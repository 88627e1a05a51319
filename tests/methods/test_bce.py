"""Binary cross-entropies, against those of one-hot labels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from methods.bce import BinaryCrossEntropy, binary_cross_entropy


@pytest.mark.parametrize(("k", "scale"), [(5, 3), (150, 3), (200, 0.01), (3, 30)])
def test_equals_one_hot_binary_cross_entropy(k: int, scale: float) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(2, k, 7, 6, dtype=torch.double)
    labels = torch.randint(k, (2, 7, 6))
    labels[:, :2] = 255
    valid = labels != 255
    one_hot = functional.one_hot(labels * valid, k).permute(0, 3, 1, 2).double()
    every = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    expected = (every * valid.unsqueeze(1)).sum() / (valid.sum() + 1)
    torch.testing.assert_close(BinaryCrossEntropy(k, 1).loss(logits, labels), expected)
    torch.testing.assert_close(BinaryCrossEntropy(k, 1).loss(logits.float(), labels), expected.float())


def test_gradcheck() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 3, 4, 5, dtype=torch.double)
    labels = torch.randint(3, (1, 4, 5))
    labels[:, 0] = 255
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, labels), logits.requires_grad_())
    logits = logits.detach().to(torch.bfloat16).requires_grad_()
    binary_cross_entropy(logits, labels).backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16
