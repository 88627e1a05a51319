"""What is left of probabilities: compiled code finds in any layout and type what PyTorch finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.kernels import cpu
from common.labels import VOID
from common.scoring.evidence import Evidence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("layout", ["planes", "pixels", "transposed", "part"])
def test_it_is_that_of_pytorch(layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (5, 31, 37), generator=generator).to(dtype)  # many are the highest at once
    probabilities = scores.softmax(dim=0)
    if layout == "pixels":
        probabilities = probabilities.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    elif layout == "transposed":
        probabilities = probabilities.mT.contiguous().mT
    elif layout == "part":
        probabilities = torch.cat([probabilities] * 2, dim=2)[:, :, 5:42]
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 2, 4, VOID], (31, 37)).astype(np.uint8))
    compiled = Evidence.of(probabilities, labels)
    monkeypatch.setattr(cpu, "library", lambda _: None)
    plain = Evidence.of(probabilities, labels)
    valid = labels != VOID
    assert torch.equal(compiled.labels, plain.labels) and compiled.labels.dtype == torch.uint8
    assert torch.equal(compiled.labels, probabilities.argmax(dim=0).to(torch.uint8))
    assert torch.equal(compiled.confidence, plain.confidence)
    assert torch.equal(compiled.likelihood[valid], plain.likelihood[valid])
    assert torch.allclose(compiled.sums, plain.sums, atol=1e-3 if dtype == torch.float16 else 1e-6)
    assert compiled.sums.tolist() == pytest.approx([1, 1], abs=1e-2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_in_the_sums(value: float) -> None:
    probabilities = torch.full((3, 20, 30), 1 / 3)
    probabilities[1, 19, 29] = value
    sums = Evidence.of(probabilities, torch.zeros(20, 30, dtype=torch.uint8)).sums
    assert not sums.sum().isfinite()
