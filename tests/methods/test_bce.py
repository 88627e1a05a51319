from __future__ import annotations

import torch
from torch.nn import functional

from methods.bce import BinaryCrossEntropy, binary_cross_entropy


def test_equals_one_hot_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5, 7, 6, dtype=torch.double)
    labels = torch.randint(5, (2, 7, 6))
    labels[:, :2] = 255
    valid = labels != 255
    one_hot = functional.one_hot(labels * valid, 5).permute(0, 3, 1, 2).double()
    every = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    expected = (every * valid.unsqueeze(1)).sum() / (valid.sum() + 1)
    torch.testing.assert_close(BinaryCrossEntropy(5, 1).loss(logits, labels), expected)


def test_the_probabilities_are_sigmoids_with_their_derivative() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 3, 4, 5, dtype=torch.double)
    labels = torch.randint(3, (1, 4, 5))
    labels[:, 0] = 255
    _, probabilities = binary_cross_entropy(logits, labels)
    torch.testing.assert_close(probabilities, logits.sigmoid() * (labels != 255))
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, labels), logits.requires_grad_())
