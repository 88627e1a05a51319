"""The examples of methods/README.md run as they stand there."""

from __future__ import annotations

from typing import Any

import torch

from tests.conftest import examples


def test_the_examples_of_the_page_run() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for example in examples("methods/README.md", "Using them in your own code"):
        exec(example, names)
    assert names["loss"].isfinite() and names["unary"].grad.isfinite().all()
    for name in ("structured", "refined"):
        assert names[name].isfinite().all()
    assert (names["certificate"].gap >= 0).all()
    assert names["refined"].shape == names["probabilities"].shape
    assert names["decided"].shape == names["labels"].shape
