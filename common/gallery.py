"""Which images a report shows, and their pictures: where methods differ most, the worst, and usual ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from common import labelmaps, metrics, runs
from common.boundaries import contour
from common.datasets.base import Dataset, palette, panel_indices
from common.errors import UserError
from common.files import read_arrays
from methods.base import VOID

Labels = NDArray[np.uint8]

LARGEST = 720
"""Pixels of the longer side of a whole picture; larger images are made smaller."""
ZOOMED = 240
"""Pixels of the side of a zoomed region, about."""

_RIGHT, _WRONG, _UNKNOWN = 0, 1, 2
_ERROR_COLOURS = np.array([(224, 228, 232), (198, 30, 30), (255, 255, 255)], np.uint8)
_DARK, _BRIGHT = 254, 253  # indices of the two sides of a contour


@dataclass
class Picture:
    """One picture of an example, as data URIs.

    Attributes:
        title: What it shows: image, truth or the name of a method.
        method: The method, or empty.
        score: mIoU of this image in percent; NaN for image and truth.
        mean: The mean of that over the method's seeds.
        views: Per view (labels, errors, zoom) a data URI.
    """

    title: str
    method: str = ""
    score: float = float("nan")
    mean: float = float("nan")
    views: dict[str, str] = field(default_factory=dict)


@dataclass
class Example:
    """One image with the labels that every method gave it.

    Attributes:
        name: `<split>/<image>`.
        reason: Why it was chosen.
        lowest: The method with the lowest mIoU on it, and that in percent, mean over seeds.
        highest: The same of the highest.
        size: Width and height of the whole pictures.
        pictures: Image and truth, where the data are at hand, and every method.
        zoom: The place of the zoomed region, for people: its size and upper left corner.
    """

    name: str
    reason: str
    lowest: tuple[str, float]
    highest: tuple[str, float]
    size: tuple[int, int]
    pictures: list[Picture]
    zoom: str

    @property
    def bytes(self) -> int:
        """The size of all pictures in the page."""
        return sum(len(uri) for picture in self.pictures for uri in picture.views.values())


class Predictions:
    """What the runs of one method predicted for the images of a split.

    Attributes:
        method: The method.
        seed: The seed whose labels are shown: the first that has any.
        scores: mIoU of every image in percent, mean over seeds.
        shown: The same of the shown seed alone.
    """

    def __init__(self, method: str, found: Sequence[runs.Run]) -> None:
        """
        Args:
            method: The method.
            found: Its runs that have scores, in the order of the seeds.

        Raises:
            UserError: A file is damaged.
        """
        self.method = method
        self._maps: dict[str, Labels | None] = {}
        per_seed: dict[int, dict[str, float]] = {}
        self._run: runs.Run | None = None
        for run in found:
            if not run.per_image.exists():
                continue
            names, per_seed[run.seed] = _image_scores(run)
            if self._run is None:
                self._maps = _stored(run, names)
                self._run = run if self._maps else None
        everywhere = {name for scores in per_seed.values() for name in scores}
        self.scores = {
            name: float(np.mean([scores[name] for scores in per_seed.values() if name in scores]))
            for name in sorted(everywhere)
        }
        self.seed = self._run.seed if self._run else None
        self.shown = per_seed.get(self.seed, {}) if self.seed is not None else {}

    @property
    def names(self) -> set[str]:
        """The scored images whose labels are there."""
        return self._maps.keys() & self.shown.keys()

    def labels(self, name: str) -> Labels:
        """The predicted labels `[H, W]` of an image."""
        found = self._maps[name]
        return labelmaps.read(self._run.labels, name) if found is None else found


def _image_scores(run: runs.Run) -> tuple[list[str], dict[str, float]]:
    arrays = read_arrays(run.per_image)
    names, counts = [str(name) for name in arrays["names"]], arrays["confusion"]
    labelled = counts.sum(axis=(1, 2)) > 0
    scores = 100 * np.nanmean(metrics.iou(counts[labelled]), axis=1)
    return names, dict(zip((n for n, known in zip(names, labelled) if known), scores.tolist()))


def _stored(run: runs.Run, names: list[str]) -> dict[str, Labels | None]:
    """The label maps that a run left: those of its panel, and None for those that are read when wanted."""
    maps: dict[str, Labels | None] = dict.fromkeys(labelmaps.names(run.labels))
    if run.panel.exists():
        first = names[0].partition("/")[0]
        shown = panel_indices(sum(name.partition("/")[0] == first for name in names))
        arrays = read_arrays(run.panel)
        maps |= {names[index]: arrays[f"labels_{place}"] for place, index in enumerate(shown)}
    return maps


# Choosing


def choose(found: Sequence[Predictions], count: int) -> list[tuple[str, str]]:
    """Names of images with the reason of their choice, most telling first.

    As many of each kind as `count` says: where the methods' scores (mean over seeds) lie furthest apart,
    where even the mean over methods is lowest, and where it is nearest to its median.
    """
    names = sorted(set.intersection(*(p.names for p in found))) if found else []
    if not names or not count:
        return []
    scores = np.array([[p.scores[name] for name in names] for p in found])
    mean = scores.mean(axis=0)
    kinds = {"worst of all methods": mean, "usual": abs(mean - np.median(mean))}
    if len(found) > 1:
        kinds = {"methods differ most": scores.min(axis=0) - scores.max(axis=0)} | kinds
    order = {reason: iter(np.argsort(key, kind="stable")) for reason, key in kinds.items()}
    chosen: dict[str, str] = {}
    for _ in range(min(count * len(kinds), len(names))):
        reason = list(kinds)[len(chosen) % len(kinds)]
        place = next(i for i in order[reason] if names[i] not in chosen)
        chosen[names[place]] = reason
    return list(chosen.items())


# Pictures


def example(found: Iterable[Predictions], dataset: Dataset, name: str, reason: str) -> Example:
    """Draws one image: whole, where it is wrong, and enlarged where methods disagree along a boundary.

    Args:
        found: What every method predicted.
        dataset: For the image, the truth and the colours. If its data are not at hand, there are only
            the predictions.
        name: `<split>/<image>`.
        reason: Why it was chosen.
    """
    found = list(found)
    predicted = {p.method: p.labels(name) for p in found}
    part, _, image_name = name.partition("/")
    try:
        image, truth = dataset.read(part, image_name)
    except UserError:
        image = truth = None
    if truth is not None and any(labels.shape != truth.shape for labels in predicted.values()):
        image = truth = None  # other data than were scored
    shape = next(iter(predicted.values())).shape
    window = _window(predicted, truth)
    pictures = []
    colours = palette(dataset.colours)
    if image is not None and truth is not None:
        pictures.append(
            Picture("image", views={"labels": _photo(image), "zoom": _photo(_enlarged(image[window]))})
        )
        pictures.append(Picture("truth", views=_views(truth, None, truth, window, colours)))
    for p in found:
        views = _views(predicted[p.method], truth, truth, window, colours)
        pictures.append(Picture(p.method, p.method, p.shown[name], p.scores[name], views))
    order = sorted(((p.method, p.scores[name]) for p in found), key=lambda pair: pair[1])
    rows, columns = window
    place = f"{rows.stop - rows.start} × {columns.stop - columns.start} pixels from row {rows.start}, "
    return Example(
        name, reason, order[0], order[-1], _size(shape), pictures, f"{place}column {columns.start}"
    )


def fill(
    wanted: Mapping[str, tuple[Sequence[Predictions], Dataset, Sequence[tuple[str, str]]]], limit: int
) -> tuple[dict[str, list[Example]], int]:
    """Examples of several benchmarks, taken in turns as long as they fit, and then put in order by kind.

    Args:
        wanted: Per benchmark the predictions, the dataset and the chosen names with their reasons.
        limit: Bytes at most of all pictures together.

    Returns:
        The examples per benchmark, and how many did not fit or could not be read.
    """
    taken: dict[str, list[Example]] = {key: [] for key in wanted}
    left = limit
    left_out = 0
    for turn in range(max((len(names) for *_, names in wanted.values()), default=0)):
        for key, (found, dataset, names) in wanted.items():
            if turn < len(names):
                try:
                    drawn = example(found, dataset, *names[turn])
                except UserError:  # a damaged file costs the pictures that need it
                    left_out += 1
                    continue
                if drawn.bytes <= left:
                    taken[key].append(drawn)
                    left -= drawn.bytes
                else:
                    left_out += 1
    for examples in taken.values():
        kinds = list(dict.fromkeys(one.reason for one in examples))
        examples.sort(key=lambda one: kinds.index(one.reason))
    return taken, left_out


def _window(predicted: Mapping[str, Labels], truth: Labels | None) -> tuple[slice, slice]:
    """The square in which most pixels along the truth's contours are labelled differently by the methods.

    Where they are not, or without the truth, it is that with most differences; of a single method, errors.
    """
    maps = np.stack([*predicted.values()])
    h, w = maps.shape[1:]
    differ = (maps != maps[0]).any(axis=0)
    if truth is not None:
        valid = truth != VOID
        differ = differ & valid if differ[valid].any() else (maps[0] != truth) & valid
        near = ndimage.binary_dilation(contour(truth), iterations=max(2, min(h, w) // 40))
        differ = differ & near if differ[near].any() else differ
    side = min(h, w, max(24, min(h, w) // 4))
    density = ndimage.uniform_filter(differ.astype(np.float32), side, mode="constant")
    row, column = np.unravel_index(int(density.argmax()), density.shape)
    top = int(np.clip(row - side // 2, 0, h - side))
    left = int(np.clip(column - side // 2, 0, w - side))
    return slice(top, top + side), slice(left, left + side)


def _views(
    labels: Labels,
    reference: Labels | None,
    contours: Labels | None,
    window: tuple[slice, slice],
    colours: NDArray[np.uint8],
) -> dict[str, str]:
    views = {"labels": _map(_smaller(labels), colours)}
    if reference is not None:
        errors = np.where(labels == reference, _RIGHT, _WRONG).astype(np.uint8)
        errors[reference == VOID] = _UNKNOWN
        views["errors"] = _map(_smaller(errors), _ERROR_COLOURS)
    views["zoom"] = _map(
        *_with_contours(labels[window], None if contours is None else contours[window], colours)
    )
    return views


def _with_contours(
    labels: Labels, truth: Labels | None, colours: NDArray[np.uint8]
) -> tuple[Labels, NDArray[np.uint8]]:
    """Enlarged labels with the truth's contours on them: dark on one side and bright on the other."""
    labels = _enlarged(labels)
    if truth is None:
        return labels, colours
    truth = _enlarged(truth)
    colours = colours.copy()
    colours[_DARK], colours[_BRIGHT] = 0, 255
    for axis in (0, 1):
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        border = truth[first] != truth[second]
        labels[first][border] = _DARK
        labels[second][border & (labels[second] != _DARK)] = _BRIGHT
    return labels, colours


def _enlarged(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, ZOOMED // array.shape[0])
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    h, w = shape[:2]
    scale = min(1.0, LARGEST / max(h, w))
    return max(1, round(w * scale)), max(1, round(h * scale))


def _smaller(labels: Labels) -> Labels:
    size = _size(labels.shape)
    if size == labels.shape[::-1]:
        return labels
    return np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def _map(indices: Labels, colours: NDArray[np.uint8]) -> str:
    return _uri(labelmaps.png(indices, colours), "png")


def _photo(image: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(image)
    if picture.size != _size(image.shape):
        picture = picture.resize(_size(image.shape), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, method=4)
    return _uri(buffer.getvalue(), "webp")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
