"""Handwritten digits on small canvases: a segmentation task that needs no download.

Made from the 1797 real digits (8×8, UCI "Optical Recognition of Handwritten Digits") that ship with
scikit-learn. Every canvas shows a run of consecutive digits (… 8, 9, 0 …) in reading order, at varied
scale, place, angle and brightness, overlapping, under uneven light, with bars, stray strokes and
noise. A digit's neighbours therefore tell what it is where its own strokes do not: there is something
for structure to find. The file of digits is in the order of the writers: each of them filled in the
same form of about 130 digits, so cuts where a form begins keep the writers of the splits apart.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.datasets import canvases
from common.datasets.base import Dataset
from common.errors import UserError
from common.files import digest
from common.seeds import derive

BACKGROUND = 0
SOURCE = {"train": slice(0, 1157), "val": slice(1157, 1415), "test": slice(1415, 1797)}
"""The forms of nine, two and three writers; each begins with 0, 1, 2, … like the first."""


class Digits(Dataset):
    """Background and the ten digits, drawn deterministically from `seed`, split and index."""

    class_names = ("background", *(str(digit) for digit in range(10)))
    colours = (
        (24, 24, 24), (230, 75, 53), (77, 187, 213), (0, 160, 135), (60, 84, 136), (243, 155, 127),
        (132, 145, 180), (145, 209, 194), (220, 20, 60), (240, 200, 80), (176, 122, 217),
    )  # fmt: skip

    def __init__(
        self,
        size: int = 64,
        train_images: int = 1200,
        val_images: int = 200,
        test_images: int = 200,
        noise: float = 0.04,
        seed: int = 0,
    ) -> None:
        """
        Args:
            size: Side of a canvas in pixels, 48 to 4096.
            train_images: Number of canvases to train on.
            val_images: Number of canvases in `val`.
            test_images: Number of canvases in `test`.
            noise: Standard deviation of the pixel noise, in shares of full brightness.
            seed: Another seed gives other canvases of the same digits.

        Raises:
            ValueError: An option is out of its range.
        """
        if not 48 <= size <= 4096:
            raise ValueError(f"size must be at least 48 and at most 4096, not {size!r}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be from 0 to 1, not {noise!r}")
        self.size = size
        self.counts = {"train": train_images, "val": val_images, "test": test_images}
        for split, count in self.counts.items():
            if not 1 <= count <= 100_000:
                raise ValueError(f"{split}_images must be at least 1 and at most 100000, not {count!r}")
        self.noise = noise
        self.seed = seed

    def names(self, split: str) -> list[str]:
        return [f"{split}-{index:05d}" for index in range(self.counts[split])]

    def read(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        random_seed = derive(self.seed, f"digits {split}", self._index(split, name))
        return _compose(split, self.size, self.noise, random_seed)

    def kept(self, split: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        shape = (self.counts[split], self.size, self.size)
        return canvases.kept(self._file(split), self._index(split, name), shape)

    def keep(self) -> None:
        for split, count in self.counts.items():
            if count * self.size**2 * 4 <= canvases.MOST:
                canvases.keep(self._file(split), [self.read(split, name) for name in self.names(split)])

    def _index(self, split: str, name: str) -> int:
        """The number of a canvas.

        Raises:
            UserError: There is none of that name.
        """
        number = name.removeprefix(f"{split}-")
        index = int(number) if number.isdecimal() else -1
        if not 0 <= index < self.counts[split] or name != f"{split}-{index:05d}":
            raise UserError(
                f"{self.entry} has no image {name} in {split}: delete its manifest in results/datasets/ and "
                "run again"
            )
        return index

    def _file(self, split: str) -> str:
        """The name of the file in which the canvases of a split are kept."""
        return f"digits-{digest([split, self.counts[split], self.size, self.noise, self.seed])}"


@cache
def source() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The real digits: brightness in [0, 1] `[1797, 8, 8]`, and which digits they are `[1797]`.

    They are read as scikit-learn does, without its imports, which take longer than those of PyTorch.

    Raises:
        UserError: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("the digits are those of scikit-learn: install it (pip install -r requirements.txt)")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return (table[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32), table[:, -1].astype(np.int64)


@cache
def _strokes(split: str, digit: int | None) -> NDArray[np.float32]:
    """The real digits of a split that show one digit, or any if it is None, with a margin: `[n, 10, 10]`."""
    images, targets = source()
    chosen = images[SOURCE[split]]
    if digit is not None:
        chosen = chosen[targets[SOURCE[split]] == digit]
    return np.pad(chosen, ((0, 0), (1, 1), (1, 1)))


@cache  # drawing takes longer than a training step; all canvases together are some megabytes
def _compose(
    split: str, size: int, noise: float, random_seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws one canvas: image `[size, size, 3]` and labels `[size, size]`."""
    from scipy import ndimage

    random = np.random.default_rng(random_seed)
    canvas = np.full((size, size, 3), random.uniform(0.05, 0.35), np.float32)
    labels = np.full((size, size), BACKGROUND, np.uint8)
    _clutter(canvas, split, random)
    count = int(random.integers(3, 6))
    first = int(random.integers(10))
    for place, centre in enumerate(_places(count, size, random)):
        _draw_digit(canvas, labels, split, (first + place) % 10, centre, random)
    _bars(canvas, labels, random)
    light = random.uniform(0.6, 1.1, (2, 2, 1))
    canvas *= ndimage.zoom(light, (size / 2, size / 2, 1), order=1, grid_mode=True, mode="nearest")
    canvas += random.normal(0, noise, canvas.shape)
    return (canvas.clip(0, 1) * 255).astype(np.uint8), labels


def _places(count: int, size: int, random: np.random.Generator) -> list[tuple[float, float]]:
    """Jittered centres (row, column) in reading order, two or three to a line."""
    columns = 2 if count < 5 else 3
    rows = -(-count // columns)
    return [
        (
            size * ((place // columns + 0.5) / rows + random.uniform(-0.06, 0.06)),
            size * ((place % columns + 0.5) / columns + random.uniform(-0.06, 0.06)),
        )
        for place in range(count)
    ]


def _stroke(split: str, digit: int | None, random: np.random.Generator) -> NDArray[np.float32]:
    """A real digit, or any if it is None, enlarged and turned: brightness in [0, 1], `[side, side]`."""
    from scipy import ndimage

    choices = _strokes(split, digit)
    image = choices[random.integers(len(choices))]
    scale = random.uniform(2.0, 3.0)
    image = ndimage.zoom(image, scale, order=1, grid_mode=True, mode="nearest")
    return ndimage.rotate(image, random.uniform(-25, 25), order=1, reshape=False).clip(0, 1)


def _window(
    shape: tuple[int, ...], centre: tuple[float, float], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a patch of `shape` at `centre` falls on the canvas, and the part of it that does."""
    inside, part = [], []
    for side, middle in zip(shape, centre):
        start = round(middle - side / 2)
        low, high = max(start, 0), min(start + side, size)
        inside.append(slice(low, max(high, low)))
        part.append(slice(low - start, max(high, low) - start))
    return (inside[0], inside[1]), (part[0], part[1])


def _draw_digit(
    canvas: NDArray[np.float32],
    labels: NDArray[np.uint8],
    split: str,
    digit: int,
    centre: tuple[float, float],
    random: np.random.Generator,
) -> None:
    """Draws a digit around a centre (row, column) and labels what it covers."""
    stroke = _stroke(split, digit, random)
    inside, part = _window(stroke.shape, centre, len(canvas))
    cover = stroke[part]
    colour = random.uniform(0.45, 1.0) * random.uniform(0.75, 1.0, 3)
    canvas[inside] += cover[..., None] * (colour - canvas[inside])
    labels[inside][cover > 0.35] = digit + 1


def _clutter(canvas: NDArray[np.float32], split: str, random: np.random.Generator) -> None:
    """Fragments of digits that belong to the background, fainter than the digits."""
    for _ in range(random.integers(1, 4)):
        stroke = _stroke(split, None, random)
        half = len(stroke) // 2
        fragment = stroke[:half] if random.random() < 0.5 else stroke[:, :half]
        inside, part = _window(fragment.shape, tuple(random.uniform(0, len(canvas), 2)), len(canvas))
        canvas[inside] += 0.4 * fragment[part][..., None] * random.uniform(0.5, 1.0, 3)


def _bars(canvas: NDArray[np.float32], labels: NDArray[np.uint8], random: np.random.Generator) -> None:
    """Up to two bars in front of everything."""
    for _ in range(random.integers(0, 3)):
        start, width = int(random.integers(len(canvas))), int(random.integers(2, 5))
        bar = slice(start, start + width)
        where = (bar, slice(None)) if random.random() < 0.5 else (slice(None), bar)
        canvas[where] = random.uniform(0.1, 0.9, 3)
        labels[where] = BACKGROUND
