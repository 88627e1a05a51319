"""Images read ahead, and those of one size together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from common.datasets import loading
from common.datasets.loading import batches
from common.datasets.split import Sample


def images(sizes: Sequence[tuple[int, int]]) -> list[Sample]:
    """Images as files are read, with their numbers as pixels."""
    return [
        Sample(torch.full((*size, 3), place).permute(2, 0, 1), torch.full(size, place))
        for place, size in enumerate(sizes)
    ]


def test_images_of_one_size_are_together() -> None:
    sizes = [(4, 6), (4, 6), (6, 4), (4, 6), (6, 4), (2, 2), (4, 6)]
    result = list(batches(images(sizes), lambda size: 3 if size == (4, 6) else 2))
    assert [batch.indices for batch in result] == [[0, 1, 3], [2, 4], [5], [6]]
    for batch in result:
        assert batch.labels[:, 0, 0].tolist() == batch.images[:, 0, 0, 0].tolist() == batch.indices
        assert batch.images.shape[1:] == (3, *sizes[batch.indices[0]])
        assert batch.images.stride(1) == 1, "the colours of a pixel are neighbours, as in a single image"


def test_few_images_wait_for_others_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WAITING", 2)
    result = batches(images([(1, 10), (1, 11), (1, 10), (1, 12), (1, 11), (1, 10)]), lambda _: 10)
    assert [batch.indices for batch in result] == [[0, 2], [1, 4], [3], [5]]
