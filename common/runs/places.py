"""Whether the data at the place that a configuration names are those that results were made with.

Where data lie is no part of any digest: the same data elsewhere are the same. So planning compares data with
the manifest where it has not seen them before, at a glance; whatever is read is compared in full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.datasets.fingerprints import difference
from common.datasets.manifest import content_of
from common.errors import Unreachable, UserError
from common.files import read_record, write_record
from common.runs.jobs import Preparation, Run

PLACES = 32
"""How many places of a dataset are kept."""

EXAMPLES = 2
"""How many results of other data are named."""


@dataclass(frozen=True)
class Places:
    """`datasets/places/<dataset>-<digest>.json`: where a dataset has been seen, on any machine.

    Attributes:
        content_sha256: Of the dataset.
        places: As `Dataset.place` says, the latest last.
    """

    content_sha256: str
    places: list[str]

    @classmethod
    def of(cls, data: Preparation) -> Places | None:
        """What is known of a dataset; None if nothing is, or of other data."""
        try:
            places = read_record(data.places, cls, "delete it")
        except UserError:
            return None
        return places if places.content_sha256 == content_of(data.path) else None

    def write(self, path: Path) -> None:
        """Writes the record if the file system lets it: it only saves time."""
        with contextlib.suppress(UserError, OSError):
            write_record(path, self)


def remember(data: Preparation, content_sha256: str) -> None:
    """Writes down that the data that are in their place now have some content."""
    place = data.dataset.place()
    if place is not None:
        record = Places.of(data)
        others = [other for other in (record.places if record else []) if other != place]
        Places(content_sha256, [*others, place][-PLACES:]).write(data.places)


def check_places(datasets: Iterable[Preparation]) -> None:
    """Checks that datasets are those of their manifests, where they lie and have not been seen before.

    A dataset without a manifest, or one that is not on this machine, is none to be checked.

    Raises:
        UserError: One is another.
    """
    for data in datasets:
        place = data.dataset.place()
        record = Places.of(data)
        if place is None or not data.path.exists() or (record and place in record.places):
            continue
        try:
            manifest = data.manifest()
            for split in manifest.splits:
                data.dataset.names(split)
        except UserError:  # whoever needs the one or the other says so
            continue
        try:
            reason = difference(data.dataset, manifest)
        except (OSError, Unreachable):  # half a copy: what is missing is no other data
            continue
        except UserError as error:
            reason = str(error).partition(": restore the data")[0]
        if reason:
            raise UserError(
                f"dataset_options.{data.name}: the data there are not those that {data.path} is of "
                f"({reason}): give the place of those, or give these data a name of their own under "
                "dataset_options, or a folder of their own by results"
            )
        remember(data, manifest.content_sha256)


def check_results(data: Preparation, content_sha256: str, runs: Iterable[Run]) -> None:
    """Checks that no results of other data lie where those of a dataset are to lie.

    Args:
        data: The dataset.
        content_sha256: Of its images and labels as they are now.
        runs: The runs on it.

    Raises:
        UserError: There are some; the sentence names the ways out.
    """
    others = [run.metrics for run in runs if _scored_on(run.metrics) not in (None, content_sha256)]
    if others:
        named = ", ".join(str(path.parent) for path in others[:EXAMPLES])
        folders = " and ".join(
            f"{data.results / kind / data.name}" for kind in ("models", "runs", "controls", "tuning")
        )
        raise UserError(
            f"dataset {data.name}: its images or labels are not those that {len(others)} results were made "
            f"with ({named}{', …' if len(others) > EXAMPLES else ''}): restore the data, or give these a "
            "name of their own under dataset_options, or a folder of their own by results, or, if the old "
            f"results are not wanted, delete {folders}"
        )


@dataclass(frozen=True)
class _Scored:
    """The part of `metrics.json` that says which data were scored."""

    content_sha256: str


def _scored_on(path: Path) -> str | None:
    """The `content_sha256` of scores; None if there are none that can be read."""
    try:
        return read_record(path, _Scored, "delete it", edited=True).content_sha256
    except UserError:
        return None
