"""Counts per image that cannot be, or are not those of their run: they cost their row alone."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import Damaged
from common.integrity import StoredFile, read_arrays
from common.runs.benchmark import Benchmark
from common.runs.records import Metrics
from common.runs.soundness import quick
from common.scoring.counts import SplitCounts
from common.tables.results import read_results
from tests.common.damage.contents import edit, run_of


def _set(place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the arrays of counts: a place of one of them gets a value."""

    def change(arrays: dict[str, Any]) -> None:
        name, *index = place
        arrays[name][tuple(index)] = value

    return change


def _replace(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


KS = ("confusion", "trimap", "boundary", "contour")

COUNTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (_set(("confusion", 0, 0, 0), -5), "confusion is negative"),
    (_set(("confusion", 0, 0, 0), 2**62), "confusion is negative or too large"),
    (_set(("trimap", 0, 0, 0, 0), 10**6), "more is right than there is"),
    (_set(("boundary", 0, 0, 0), 10**6), "more is right than there is"),
    (_set(("contour", 0, 1, 0), 10**6), "more of contours is matched"),
    (_set(("contour", 0, 0, 0), -1), "contour is negative"),
    (_set(("nll", 0), float("nan")), "nll is no array of numbers"),
    (_set(("nll", 0), -1e9), "nll is negative"),
    (_set(("calibration", 0, 0, 1), -1.0), "calibration is not between"),
    (_set(("calibration", 0, 0, 2), 1e9), "calibration is not between"),
    (_set(("calibration", 0, 0, 0), 1e9), "calibration is of other pixels"),
    (_replace("confusion", lambda x: x.astype(float)), "confusion is no array of whole numbers"),
    (_replace("confusion", lambda x: x.astype(str)), "confusion is no array of whole numbers"),
    (_replace("confusion", lambda x: 0 * x), "(calibration is of|objects have) other pixels"),
    (_replace("names", lambda x: x[::-1][:1].repeat(len(x))), "names are not one per image"),
    (_replace("names", lambda x: np.arange(len(x))), "names are not one per image"),
    (_replace("names", lambda x: x[:-1]), "has boundary of shape|has calibration of shape"),
    (lambda arrays: arrays.pop("nll"), "only one of calibration and nll"),
    (lambda arrays: arrays.pop("trimap"), "lacks trimap"),
    (
        lambda arrays: [arrays.update({k: a[..., :5]}) for k, a in arrays.items() if k in KS],
        "has confusion of shape",
    ),
]
"""Changes of the counts of a run, and what is said of them even if the record tells of the changed file."""


@pytest.mark.parametrize(("change", "reason"), COUNTS)
def test_counts_that_cannot_be_are_the_reason_of_their_row(
    change: Callable[[dict[str, Any]], Any], reason: str, benchmark: Benchmark
) -> None:
    run = run_of(benchmark, "bce")
    counts = asdict(SplitCounts.read(run.per_image))
    arrays = {key: array for key, array in counts.items() if array is not None}
    change(arrays)
    np.savez_compressed(run.per_image, **arrays)
    with pytest.raises(Damaged, match=reason):
        SplitCounts.read(run.per_image)
    edit(run.metrics, {"files": {"per_image.npz": vars(StoredFile.of(run.per_image))}})
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and str(run.per_image) in (result.error or "")


def test_counts_of_other_classes_are_the_reason_of_their_row(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    counts = SplitCounts.read(run.per_image)
    k = {key: getattr(counts, key)[..., :5] for key in ("trimap", "boundary", "contour")}
    confusion = counts.confusion[:, :5, :5]
    replace(counts, **k, confusion=confusion, calibration=None, nll=None, objects=None).write(run.per_image)
    edit(run.metrics, {"files": {"per_image.npz": vars(StoredFile.of(run.per_image))}})
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and "is of 5 classes, not 11" in (result.error or "")


def test_counts_of_another_run_do_not_belong(benchmark: Benchmark) -> None:
    run, other = run_of(benchmark, "bce"), run_of(benchmark, "ce")
    shutil.copy(other.per_image, run.per_image)
    (result,) = (result for result in read_results(benchmark) if result.run.method == "bce")
    assert result.metrics is None and "its record tells of" in (result.error or "")
    assert (
        any("per_image.npz" in fault for fault in quick(run))
        or run.per_image.with_name("per_image.npz.damaged").exists()
    )


def test_every_flipped_bit_of_counts_is_noticed(benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    stored, content = Metrics.read(run).files["per_image.npz"], run.per_image.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        run.per_image.write_bytes(flipped)
        with pytest.raises(Damaged):
            SplitCounts.read(run.per_image, stored)


def test_arrays_that_are_more_than_their_archive_tells_of_are_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "counts.npz"
    np.savez_compressed(file, confusion=np.zeros(5 * 10**7, np.uint8))
    content = bytearray(file.read_bytes())
    size = content.rindex(b"PK\x01\x02") + 24  # of the array, in the list at the end of the archive
    content[size : size + 4] = (1000).to_bytes(4, "little")
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            read_arrays(file, "make them again")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10**6
