"""Pictures of one image: what every method said of it, whole, where it is wrong, and enlarged."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from common.datasets import fingerprints
from common.datasets.base import Dataset
from common.datasets.manifest import Manifest
from common.errors import UserError
from common.images import label_maps
from common.images.palette import palette
from common.labels import VOID
from common.report.method_labels import MethodLabels
from common.scoring.boundaries import Labels
from common.scoring.plain_boundaries import contour

LARGEST = 720
"""Pixels of the longer side of a whole picture; larger images are made smaller."""
ZOOMED = 240
"""Pixels of the side of a zoomed region, about."""

_RIGHT, _WRONG, _UNKNOWN = 0, 1, 2
_ERROR_COLOURS = np.array([(224, 228, 232), (198, 30, 30), (255, 255, 255)], np.uint8)
_DARK, _BRIGHT = 254, 253  # indices of the two sides of a contour


@dataclass
class ExamplePicture:
    """One picture of an example, as data URIs.

    Attributes:
        title: What it shows: image, truth or the name of a method.
        method: The method, or empty.
        score: mIoU of this image in percent; NaN for image and truth.
        views: Per view (labels, errors, zoom) a data URI.
    """

    title: str
    method: str = ""
    score: float = float("nan")
    views: dict[str, str] = field(default_factory=dict)


@dataclass
class Example:
    """One image with the labels that every method gave it.

    Attributes:
        name: `<split>/<image>`.
        reason: Why it was chosen.
        lowest: The method whose labels here have the lowest mIoU, and that in percent.
        highest: The method whose labels here have the highest mIoU, and that in percent.
        size: Width and height of the whole pictures.
        pictures: Image and truth, where the data are at hand, and every method.
        zoom: The place of the zoomed region, for people: its size and upper left corner.
    """

    name: str
    reason: str
    lowest: tuple[str, float]
    highest: tuple[str, float]
    size: tuple[int, int]
    pictures: list[ExamplePicture]
    zoom: str

    @property
    def bytes(self) -> int:
        """The size of all pictures in the page."""
        return sum(len(uri) for picture in self.pictures for uri in picture.views.values())


def draw_example(
    methods: Sequence[MethodLabels],
    dataset: Dataset,
    name: str,
    reason: str,
    manifest: Manifest | None = None,
) -> Example:
    """Draws one image: whole, where it is wrong, and enlarged where methods disagree along a boundary.

    Args:
        methods: What every method predicted.
        dataset: For the image, the truth and the colours. If its data are not at hand, there are only
            the predictions.
        name: `<split>/<image>`.
        reason: Why it was chosen.
        manifest: What the image was when the dataset was prepared; one that changed since is not shown.

    Raises:
        UserError: The labels of a method cannot be read.
    """
    predicted = {method.method: method.labels(name) for method in methods}
    image, truth = _image_and_truth(dataset, manifest, name, predicted)
    window = _window(predicted, truth)
    colours = palette(dataset.colours)
    pictures = []
    if image is not None and truth is not None:
        whole = {"labels": _photo(image), "zoom": _photo(_enlarged(image[window]))}
        pictures.append(ExamplePicture("image", views=whole))
        pictures.append(ExamplePicture("truth", views=_views(truth, None, truth, window, colours)))
    for method in methods:
        views = _views(predicted[method.method], truth, truth, window, colours)
        pictures.append(ExamplePicture(method.method, method.method, method.shown[name], views))
    order = sorted(((method.method, method.shown[name]) for method in methods), key=lambda pair: pair[1])
    size = _size(next(iter(predicted.values())).shape)
    return Example(name, reason, order[0], order[-1], size, pictures, _described(window))


def _image_and_truth(
    dataset: Dataset, manifest: Manifest | None, name: str, predicted: Mapping[str, Labels]
) -> tuple[NDArray[np.uint8] | None, Labels | None]:
    """An image and its labels; None if they are not at hand, or are others than were scored."""
    part, _, image_name = name.partition("/")
    try:
        reading = fingerprints.read(dataset, part, image_name)
        if manifest:
            known = manifest.splits[part]
            lines = dict(zip(known.names, known.fingerprints))
            fingerprints.check(reading, lines.get(image_name, ""), manifest)
    except UserError:
        return None, None
    image, truth = reading.image, reading.labels
    if any(labels.shape != truth.shape for labels in predicted.values()):
        return None, None
    return image, truth


def _described(window: tuple[slice, slice]) -> str:
    """A region, for people."""
    rows, columns = window
    size = f"{rows.stop - rows.start} × {columns.stop - columns.start} pixels"
    return f"{size} from row {rows.start}, column {columns.start}"


def _window(predicted: Mapping[str, Labels], truth: Labels | None) -> tuple[slice, slice]:
    """The square in which most pixels along the truth's contours are labelled differently by the methods.

    Without differences there, or without the truth, it is the square with most differences anywhere; of
    methods that agree everywhere, the square with most errors.
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
    """All views of a label map as data URIs.

    Args:
        labels: The labels `[H, W]`.
        reference: What they are right or wrong by; None draws no errors.
        contours: The labels whose contours are drawn into the enlarged region; None draws none.
        window: The region that is enlarged.
        colours: Of the labels, `[256, 3]`.
    """
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
    """A region, every pixel as large as `ZOOMED` allows."""
    factor = max(1, ZOOMED // array.shape[0])
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of the whole picture of an image of H, W pixels."""
    h, w = shape[:2]
    scale = min(1.0, LARGEST / max(h, w))
    return max(1, round(w * scale)), max(1, round(h * scale))


def _smaller(labels: Labels) -> Labels:
    """Labels at the size of the whole picture."""
    size = _size(labels.shape)
    if size == labels.shape[::-1]:
        return labels
    return np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def _map(indices: Labels, colours: NDArray[np.uint8]) -> str:
    """A label map as a data URI."""
    return _uri(label_maps.png(indices, colours), "png")


def _photo(image: NDArray[np.uint8]) -> str:
    """An image as a data URI, at the size of the whole picture."""
    picture = Image.fromarray(image)
    if picture.size != _size(image.shape):
        picture = picture.resize(_size(image.shape), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, method=4)
    return _uri(buffer.getvalue(), "webp")


def _uri(content: bytes, kind: str) -> str:
    """The content of a picture file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
