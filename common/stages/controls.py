"""Stage `controls`: labellings that no model made, which bracket the runs of a dataset and model.

`majority` gives every pixel the commonest class of the training images. `ceiling` is the truth seen through
the network's output grid: the shares of the classes in every cell, upsampled as logits are. A model may do a
little better, as its logits need not be shares. There is a ceiling for each finer grid that methods declare.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from common import failures
from common.datasets.split import Split
from common.integrity import StoredFile, forget
from common.machine import job_locks
from common.provenance import Provenance
from common.runs import recipes
from common.runs.jobs import Control
from common.runs.outputs import forget_tables
from common.runs.records import ControlMetrics
from common.scoring.controls import labelling
from common.scoring.split import score_labellings, workers
from common.stages import entry


def score(controls: Sequence[Control]) -> None:
    """Writes the scores and counts of the controls of a dataset, model and grid.

    Raises:
        UserError: The manifest or the data are missing.
    """
    first = controls[0]
    with failures.recording_failure(first.error, "controls"), job_locks.shared("cpu"):
        start = time.monotonic()
        dataset, manifest = first.data.dataset, first.data.manifest()
        split = Split(dataset, manifest, first.split)
        labellings = {control.name: labelling(control, manifest) for control in controls}
        counts = score_labellings(labellings, split, workers(torch.device("cpu")))
        forget_tables(first.results)
        for control in controls:
            forget(control.metrics)  # it tells of the file that is written now
            counts[control.name].write(control.per_image)
            ControlMetrics(
                dataset=control.dataset,
                model=control.model,
                control=control.name,
                grid=control.grid,
                digest=control.digest,
                recipe=recipes.SCORING.number,
                split=control.split,
                images=len(split),
                **counts[control.name].label_scores(dataset.class_names),
                content_sha256=manifest.content_sha256,
                provenance=Provenance.now("cpu"),
                wall_seconds=round(time.monotonic() - start, 3),
                files=StoredFile.all_of([control.per_image]),
            ).write(control.metrics)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, dataset and model, and the machine."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model")
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Scores the controls of the selected dataset and model."""
    for controls in entry.control_sets(arguments):
        score(controls)
        print(controls[0].folder.parent)
