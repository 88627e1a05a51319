"""The images of a split in their order, read ahead by other processes, and those of one size together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from common import phases
from common.datasets.split import Sample, Split
from common.errors import LoaderDied, UserError

AHEAD = 2
"""Images that each process reads ahead."""

WAITING = 64
"""Images that may wait for others of their size, in all: each holds memory and two open files."""


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        indices: Which of the split they are.
        images: uint8 `[N, 3, H, W]`.
        labels: uint8 `[N, H, W]`.
    """

    indices: list[int]
    images: Tensor
    labels: Tensor


class _Readable(TorchDataset[Sample | UserError]):
    """A split in which errors stand for unreadable images: raised elsewhere, these would lose their texts."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> Sample | UserError:
        try:
            return self._split[index]
        except UserError as error:
            return error


def samples(split: Split, processes: int) -> Iterator[Sample]:
    """All images of a split in their order.

    Args:
        split: The split.
        processes: So many read ahead; with 0 this one reads an image when it is due.

    Raises:
        UserError: An image is missing or not as it was.
    """
    images = _Readable(split)
    processes = min(processes, len(split))
    ahead = {"num_workers": processes, "prefetch_factor": AHEAD} if processes else {}
    loader = iter(DataLoader(images, batch_size=None, **ahead))  # type: ignore[arg-type] # of several types
    for _ in range(len(split)):
        try:
            with phases.during(phases.LOADING):
                sample = next(loader)
        except (ConnectionError, EOFError) as error:  # it was about to hand over an image
            raise LoaderDied from error
        if isinstance(sample, UserError):
            raise sample
        yield sample


def batches(images: Iterable[Sample], most: Callable[[torch.Size], int]) -> Iterator[Batch]:
    """Images of one size together; which ones depends on their order and sizes alone.

    An image waits for others of its size, unless too many wait.

    Args:
        images: The images.
        most: How many of a size H, W are to be together at most.
    """
    waiting: dict[torch.Size, list[tuple[int, Sample]]] = {}
    held = 0
    for index, sample in enumerate(images):
        size = sample.labels.shape
        group = waiting.setdefault(size, [])
        group.append((index, sample))
        held += 1
        if len(group) >= most(size):
            held -= len(group)
            yield _batch(waiting.pop(size))
        elif held > WAITING:
            size, group = next(iter(waiting.items()))
            held -= len(group)
            yield _batch(waiting.pop(size))
    yield from map(_batch, waiting.values())


def _batch(group: list[tuple[int, Sample]]) -> Batch:
    """A batch of indices and images of one size; images are laid out in memory as a single one is."""
    indices, images = zip(*group)
    if len(images) == 1:
        return Batch(list(indices), images[0].image.unsqueeze(0), images[0].labels.unsqueeze(0))
    together = torch.stack([sample.image.permute(1, 2, 0) for sample in images]).permute(0, 3, 1, 2)
    return Batch(list(indices), together, torch.stack([sample.labels for sample in images]))
