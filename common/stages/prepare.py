"""Stage `prepare`: looks at a dataset once, reports everything that is wrong, writes its manifest.

The manifest lists the images that are there and what is in them; training and evaluation go by it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

import numpy as np

from common import failures
from common.datasets.inspection import inspect
from common.datasets.manifest import Manifest
from common.files import replacing
from common.integrity import StoredFile
from common.labels import VOID
from common.machine import job_locks
from common.provenance import Provenance
from common.runs.jobs import Preparation, Run
from common.runs.places import check_results, remember
from common.stages import entry


def prepare(job: Preparation, runs: Iterable[Run] = ()) -> None:
    """Writes the manifest of a dataset and the images for its picture panels.

    Args:
        job: The dataset.
        runs: The runs on it: results of other data under its name are refused.

    Raises:
        UserError: Files are missing, damaged or not legal, and the message lists them all; or there are
            results of other data.
    """
    with failures.recording_failure(job.error, "prepare"), job_locks.shared("cpu"):
        start = time.monotonic()
        inspection = inspect(job.dataset, job.training_splits)
        check_results(job, inspection.content_sha256, runs)
        with replacing(job.panel, "wb") as file:
            np.savez_compressed(file, **inspection.panel)  # type: ignore[arg-type]  # no array is called as an option
        manifest = Manifest(
            dataset=job.name,
            options=job.options,
            digest=job.digest,
            class_names=list(job.dataset.class_names),
            colours=list(job.dataset.colours),
            void=VOID,
            content_sha256=inspection.content_sha256,
            splits=inspection.splits,
            provenance=Provenance.now("cpu"),
            wall_seconds=round(time.monotonic() - start, 3),
            notes=inspection.notes,
            panel=StoredFile.of(job.panel),
        )
        manifest.write(job.path)
        remember(job, inspection.content_sha256)
        job.dataset.keep()
    for note in inspection.notes:
        print(f"structseg: dataset {job.name}: {note}", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration and the dataset."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset")


def run(arguments: argparse.Namespace) -> None:
    """Prepares the selected dataset."""
    job = entry.preparation(arguments)
    prepare(job, entry.runs_on(arguments))
    print(job.path)
