"""Made-up images that were drawn before, in the user's cache folder: a file per split.

They only save time: who reads one compares it with the manifest, and draws what is missing or another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import cache_folder, replacing

MOST = 2**28
"""A split that takes more bytes is not kept."""


def keep(name: str, canvases: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Writes canvases, if they are not too many and the folder lets it.

    Args:
        name: Of the file, with a digest of all that tells them from others.
        canvases: Images `[H, W, 3]` with labels `[H, W]`; if they have several sizes, they are not kept.
    """
    if len({labels.shape for _, labels in canvases}) != 1:
        return
    with contextlib.suppress(OSError, RuntimeError, UserError):  # no right to write, or no home
        together = np.stack([np.concatenate([x.ravel() for x in canvas]) for canvas in canvases])
        with replacing(_path(name), "wb") as file:
            np.save(file, together)
    _read.cache_clear()


def kept(
    name: str, index: int, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """A canvas that was written, or another one in its place; None if there is none.

    Args:
        name: Of the file.
        index: The place of the canvas in it.
        shape: N, H and W of all that it should have.
    """
    together, (count, height, width) = _read(name), shape
    pixels = height * width
    if together is None or together.dtype != np.uint8 or together.shape != (count, 4 * pixels):
        return None
    image, labels = together[index, : 3 * pixels], together[index, 3 * pixels :]
    return image.reshape(height, width, 3).copy(), labels.reshape(height, width).copy()


@cache
def _read(name: str) -> NDArray[np.uint8] | None:
    """What is in a file, read once by every process."""
    try:
        return np.load(_path(name), allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError):  # none, damaged, or no home
        return None


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.npy"
