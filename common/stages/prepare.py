"""Stage `prepare`: looks at a dataset once, reports everything that is wrong, writes its manifest.

The manifest lists the images that are there and what is in them; training and evaluation go by it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from common import failures
from common.datasets.inspection import inspect
from common.datasets.manifest import Manifest
from common.files import replacing
from common.labels import VOID
from common.provenance import Provenance
from common.runs.jobs import Preparation
from common.stages import entry


def prepare(job: Preparation) -> None:
    """Writes the manifest of a dataset and the images for its picture panels.

    Raises:
        UserError: Files are missing, damaged or not legal; the message lists them all.
    """
    with failures.recording_failure(job.error, "prepare"):
        start = time.monotonic()
        inspection = inspect(job.dataset)
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
        )
        manifest.write(job.path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration and the dataset."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset")


def run(arguments: argparse.Namespace) -> None:
    """Prepares the selected dataset."""
    job = entry.preparation(arguments)
    prepare(job)
    print(job.path)
