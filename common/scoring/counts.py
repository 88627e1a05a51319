"""The counts of one image and of many: all that scores, tables and intervals are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import Damaged
from common.files import replacing
from common.integrity import StoredFile, read_arrays
from common.kernels.counts import pixel_counts
from common.runs.records import Reliability
from common.scoring import boundaries, calibration, metrics, objects
from common.scoring.boundaries import BoundaryCounts, BoundaryScores
from common.scoring.metrics import AccuracyScores, ImageScores, Overlaps
from common.scoring.objects import ObjectScores

if TYPE_CHECKING:
    from torch import Tensor

    from common.datasets.split import Split
    from common.scoring.evidence import Evidence

OF_PROBABILITIES = ("calibration", "nll")
"""The arrays that labels without probabilities have none of."""

OPTIONAL = (*OF_PROBABILITIES, "objects")
"""Arrays that may be missing; files that are older than objects have none of these."""

REMEDY = "delete its folder and evaluate again"

_ONE = 2**20
"""What the score of an image is at most where scores are whole numbers, whose sums are exact."""

_MOST = 2**40
"""Counts of one image are smaller, so that those of a million images are summed without an overflow."""


class ImageCounts(NamedTuple):
    """The counts of one image.

    Attributes:
        confusion: `[K, K]`, as of `metrics.confusion`.
        boundaries: As of `boundaries.counts`.
        objects: As of `objects.counts`.
        calibration: `[BINS, 3]`, as of `calibration.counts`; None for labels without probabilities.
        nll: The sum of −log p(truth) over pixels; None for labels without probabilities.
    """

    confusion: NDArray[np.int64]
    boundaries: BoundaryCounts
    objects: NDArray[np.int32]
    calibration: NDArray[np.float64] | None = None
    nll: float | None = None


class LabelScores(AccuracyScores, ImageScores, BoundaryScores, ObjectScores):
    """The scores of labels alone: the fields of `runs.records.Scores` of these names."""


class SplitScores(LabelScores, total=False):
    """The scores of a split: the fields of `runs.records.Metrics` of these names.

    Those that are not in `LabelScores` are of probabilities, and missing for labels without.
    """

    ece: float
    nll: float
    reliability: Reliability


class ComparedCounts(NamedTuple):
    """What comparisons need of the counts of a split.

    Attributes:
        names: The images, `<split>/<name>`.
        ratios: Numerators and denominators, whole numbers `[2, N, K]`, whose sums over images give `miou`,
            `boundary_iou` and, as a single ratio of scores to images, `miou_i`.
    """

    names: tuple[str, ...]
    ratios: dict[str, NDArray[np.integer]]

    @classmethod
    def of(cls, names: NDArray[np.str_], overlaps: Overlaps, boundary: NDArray[np.int32]) -> ComparedCounts:
        """From the arrays of these names of `SplitCounts`."""
        each = overlaps.mious[:, None]
        labelled = ~np.isnan(each)
        ratios: dict[str, NDArray[Any]] = {
            "miou": np.stack([overlaps.hits, overlaps.union]),
            "boundary_iou": np.moveaxis(boundary, 1, 0),
            "miou_i": np.stack([np.rint(_ONE * np.where(labelled, each, 0)), _ONE * labelled]),
        }
        return cls(tuple(names.tolist()), {metric: _small(array) for metric, array in ratios.items()})

    @property
    def size(self) -> int:
        """How much memory the ratios take, in bytes."""
        return sum(array.nbytes for array in self.ratios.values())


@dataclass(frozen=True)
class SplitCounts:
    """The counts of all N images of a split: `per_image.npz`.

    Attributes:
        names: The images, `<split>/<name>`, `[N]`.
        confusion: `[N, K, K]`: rows are the truth, columns the prediction.
        trimap: `[N, W, 3, K]`: hits, truth and prediction in the bands of `boundaries.TRIMAP_WIDTHS`.
        boundary: `[N, 2, K]`: intersection and union of the bands of Boundary IoU.
        contour: `[N, 4, K]`: pixels of contours, predicted, matched, true, matched.
        calibration: `[N, BINS, 3]`: pixels, right ones, sum of confidence; None for labels without
            probabilities.
        nll: `[N]`: the sum of −log p(truth) over pixels; None for labels without probabilities.
        objects: `[N, SIZES, 2, K]`: right pixels and all pixels of objects by size; None in older files.
    """

    names: NDArray[np.str_]
    confusion: NDArray[np.int64]
    trimap: NDArray[np.int32]
    boundary: NDArray[np.int32]
    contour: NDArray[np.int32]
    calibration: NDArray[np.float64] | None = None
    nll: NDArray[np.float64] | None = None
    objects: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, names: NDArray[np.str_], images: Sequence[ImageCounts]) -> SplitCounts:
        """The counts of a split from those of its images, of which all have probabilities or none.

        Args:
            names: As of `image_names`.
            images: One for every name.
        """
        bins = [image.calibration for image in images if image.calibration is not None]
        nll = [image.nll for image in images if image.nll is not None]
        return cls(
            names,
            np.stack([image.confusion for image in images]),
            np.stack([image.boundaries.trimap for image in images]),
            np.stack([image.boundaries.boundary for image in images]),
            np.stack([image.boundaries.contour for image in images]),
            np.stack(bins) if bins else None,
            np.array(nll) if nll else None,
            np.stack([image.objects for image in images]),
        )

    @classmethod
    def read(cls, path: Path, stored: StoredFile | None = None) -> SplitCounts:
        """The counts that a stage wrote.

        Args:
            path: The file.
            stored: What the record of the scores says of it, if that is known.

        Raises:
            UserError: The file is missing or another one than the record tells of, lacks an array, or has one
                of another shape or with numbers that cannot be.
        """
        arrays = read_arrays(path, REMEDY, stored)
        lacking = sorted({*cls.__dataclass_fields__} - {*OPTIONAL} - {*arrays})
        if lacking:
            raise Damaged(path, f"lacks {', '.join(lacking)}", REMEDY)
        names, confusion = arrays["names"], arrays["confusion"]
        shapes = _shapes(names.size, confusion.shape[-1] if confusion.ndim else 0)
        for key in sorted(shapes.keys() & arrays.keys()):
            if arrays[key].shape != shapes[key]:
                raise Damaged(path, f"has {key} of shape {arrays[key].shape}, not {shapes[key]}", REMEDY)
        counts = cls(**{key: arrays[key] for key in cls.__dataclass_fields__ if key in arrays})
        impossible = counts.impossible()
        if impossible:
            raise Damaged(path, f"has counts that cannot be ({impossible})", REMEDY)
        return counts

    @classmethod
    def read_compared(cls, path: Path, stored: StoredFile) -> ComparedCounts:
        """What comparisons need of a file that has given scores, as only possible counts do.

        Args:
            path: The file.
            stored: What the record of these scores says of it.

        Raises:
            UserError: The file is missing or another one.
        """
        wanted = {"names", "confusion", "boundary"}
        arrays = read_arrays(path, REMEDY, stored, wanted)
        lacking = sorted(wanted - {*arrays})
        if lacking:
            raise Damaged(path, f"lacks {', '.join(lacking)}", REMEDY)
        return ComparedCounts.of(arrays["names"], Overlaps.of(arrays["confusion"]), arrays["boundary"])

    def impossible(self) -> str:
        """What is wrong with the counts, whoever counted: empty if they can be."""
        for key in ("confusion", "trimap", "boundary", "contour", "objects"):
            array = getattr(self, key)
            if array is None:
                continue
            if array.dtype.kind not in "iu":
                return f"{key} is no array of whole numbers"
            if array.size and not 0 <= int(array.min()) <= int(array.max()) < _MOST:
                return f"{key} is negative or too large"
        for key in OF_PROBABILITIES:
            array = getattr(self, key)
            if array is not None and (array.dtype.kind != "f" or not np.isfinite(array).all()):
                return f"{key} is no array of numbers"
        if self.names.dtype.kind != "U" or len({*self.names.tolist()}) < self.names.size:
            return "names are not one per image"
        hits, truth, predicted = np.moveaxis(self.trimap, 2, 0)
        if (hits > np.minimum(truth, predicted)).any() or (self.boundary[:, 0] > self.boundary[:, 1]).any():
            return "more is right than there is"
        if (self.contour[:, 1::2] > self.contour[:, ::2]).any():
            return "more of contours is matched than there is"
        if self.objects is not None:
            right, pixels = np.moveaxis(self.objects, 2, 0)
            if (right > pixels).any() or not np.array_equal(pixels.sum(axis=1), self.overlaps.truth):
                return "objects have other pixels than confusion"
        return self._impossible_calibration()

    def _impossible_calibration(self) -> str:
        """What is wrong with the counts about probabilities."""
        if self.calibration is None or self.nll is None:
            return "" if self.calibration is self.nll else "only one of calibration and nll is there"
        pixels, right, confidence = np.moveaxis(self.calibration, 2, 0)
        if not np.array_equal(pixels.sum(axis=1), self.overlaps.truth.sum(axis=1)):
            return "calibration is of other pixels than confusion"
        if (right > pixels).any() or (confidence > 1.001 * pixels).any() or (self.calibration < 0).any():
            return "calibration is not between zero and one"
        if (self.nll < -1e-3 * pixels.sum(axis=1)).any():  # rounding can make a probability of more than one
            return "nll is negative"
        return ""

    def write(self, path: Path) -> None:
        """Writes the counts, whole or not at all."""
        arrays = {key: array for key, array in asdict(self).items() if array is not None}
        with replacing(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @property
    def compared(self) -> ComparedCounts:
        """What comparisons need of them."""
        return ComparedCounts.of(self.names, self.overlaps, self.boundary)

    @cached_property
    def overlaps(self) -> Overlaps:
        """Hits, truth and union of every image, `[N, K]` each."""
        return Overlaps.of(self.confusion)

    @cached_property
    def total(self) -> NDArray[np.int64]:
        """The confusion counts `[K, K]` of the whole split."""
        return self.confusion.sum(axis=0)

    @staticmethod
    def read_names(path: Path) -> tuple[str, ...]:
        """The images of a file that a stage wrote, without its counts.

        Raises:
            UserError: The file is missing or damaged, or lacks them.
        """
        names = read_arrays(path, REMEDY, only=["names"]).get("names")
        if names is None:
            raise Damaged(path, "lacks names", REMEDY)
        return tuple(map(str, names.ravel()))

    def label_scores(self, class_names: Sequence[str]) -> LabelScores:
        """The scores of the split's labels.

        Args:
            class_names: One name per class.

        Raises:
            ValueError: There is not one labelled pixel.
        """
        names = list(class_names)
        bands = BoundaryCounts(self.trimap, self.boundary, self.contour)
        return {
            **metrics.scores(self.total, names),
            **metrics.image_scores(self.overlaps),
            **boundaries.scores(bands, names),
            **objects.scores(self.objects),
        }

    def scores(self, class_names: Sequence[str]) -> SplitScores:
        """All scores of the split; those of probabilities only if it has some.

        Args:
            class_names: One name per class.

        Raises:
            ValueError: There is not one labelled pixel.
        """
        scores = self.label_scores(class_names)
        if self.calibration is None or self.nll is None:
            return {**scores}
        return {**scores, **calibration.scores(self.calibration, self.nll)}


def _small(counts: NDArray[Any]) -> NDArray[np.integer]:
    """Whole numbers as 32 bits if they fit."""
    return counts.astype(np.int32 if counts.max(initial=0) < 2**31 else np.int64, order="C")


def _shapes(n: int, k: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array of `SplitCounts` for N images and K classes."""
    return {
        "names": (n,),
        "confusion": (n, k, k),
        "trimap": (n, len(boundaries.TRIMAP_WIDTHS), 3, k),
        "boundary": (n, 2, k),
        "contour": (n, 4, k),
        "calibration": (n, calibration.BINS, 3),
        "nll": (n,),
        "objects": (n, len(objects.SIZES), 2, k),
    }


def image_names(split: Split) -> NDArray[np.str_]:
    """What the images of a split are called in `per_image.npz`, `<split>/<name>`."""
    return np.array([f"{part}/{name}" for part, name in split.names])


def image_counts(
    predicted: Tensor, labels: Tensor, num_classes: int, evidence: Evidence | None = None
) -> ImageCounts:
    """The counts of one image.

    Args:
        predicted: uint8 `[H, W]` in 0..K−1, on the CPU.
        labels: uint8 `[H, W]` in 0..K−1, or 255 for void, on the CPU.
        num_classes: K.
        evidence: What the probabilities say, on the CPU; None for labels without. Calibration is that of its
            own labels, which are others than those predicted if a rule has decided these.
    """
    if evidence and evidence.labels is not predicted:
        bins, nll = calibration.counts(evidence, labels)
        return image_counts(predicted, labels, num_classes)._replace(calibration=bins, nll=nll)
    maps = predicted.numpy(), labels.numpy()
    along = boundaries.counts(*maps, num_classes), objects.counts(*maps, num_classes)
    sure = (evidence.confidence.numpy(), evidence.likelihood.numpy()) if evidence else None
    rule = (calibration.BINS, calibration.SMALLEST_PROBABILITY)
    compiled = pixel_counts(*maps, num_classes, sure, *rule)
    if compiled:
        confusion, bins, nll = compiled
        return ImageCounts(confusion, *along, *((bins, nll) if evidence else ()))
    confusion = metrics.confusion(predicted, labels, num_classes)
    return ImageCounts(confusion, *along, *(calibration.counts(evidence, labels) if evidence else ()))
