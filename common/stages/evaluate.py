"""Stage `evaluate`: scores one run on the split that the configuration names."""

from __future__ import annotations

import argparse
import time

from common import failures, phases
from common.config.settings import Execution
from common.datasets.split import Split
from common.errors import UserError
from common.images.label_maps import LabelMaps
from common.integrity import StoredFile, forget
from common.machine import devices, job_locks
from common.provenance import Provenance, peak_memory
from common.runs import jobs, recipes
from common.runs.jobs import ReadRun, Run
from common.runs.outputs import forget_tables
from common.runs.records import Metrics
from common.scoring.sources import source
from common.scoring.split import score, workers
from common.stages import entry


def evaluate(run: Run, execution: Execution) -> None:
    """Writes a run's scores, the counts of every image that they come from, and the labels of its panel.

    Label maps of more images are kept for the report, up to `execution.labels_mb`. Every image is scored at
    its original size; void is left out.

    Raises:
        UserError: The trained model or the data are missing.
    """
    with (
        failures.recording_failure(run.error, "evaluate", f"scoring {jobs.description(run)}"),
        devices.leased(
            "cpu" if isinstance(run, ReadRun) else execution.device, execution.runs_per_gpu
        ) as device,
        job_locks.shared(device.type),
    ):
        start = time.monotonic()
        dataset, manifest = run.data.dataset, run.data.manifest()
        split = Split(dataset, manifest, run.evaluation.split)
        _check_labelled(run, split)
        with phases.during(phases.LOADING):
            predictions = source(run, device)
        maps = LabelMaps(int(1e6 * execution.labels_mb), dataset.colours)
        scored = score(predictions, split, maps, workers(device, execution.workers))
        forget_tables(run.results)
        forget(run.metrics)  # it tells of the files that are written now: it comes last
        scored.label_maps.write(run.labels)
        scored.write_panel(run.panel)
        scored.counts.write(run.per_image)
        Metrics(
            dataset=run.dataset,
            model=run.model,
            method=run.method,
            seed=run.seed,
            digest=run.digest,
            recipe=recipes.SCORING.number,
            **predictions.facts(),
            split=run.evaluation.split,
            evaluation=run.evaluation,
            images=len(split),
            **scored.counts.scores(dataset.class_names),
            diagnostics=scored.diagnostics,
            content_sha256=manifest.content_sha256,
            provenance=Provenance.now(devices.describe(device)),
            wall_seconds=round(time.monotonic() - start, 3),
            files=StoredFile.all_of([run.per_image, run.panel, run.labels]),
            peak_memory=peak_memory(device),
        ).write(run.metrics)


def _check_labelled(run: Run, split: Split) -> None:
    """Refuses a split without a labelled pixel."""
    if not any(sum(part.pixels.values()) for part in split.statistics):
        raise UserError(
            f"evaluation.split (for {run.dataset}): {run.evaluation.split} has no labelled pixel: if its "
            "labels are not public, score another split"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the run and the machine."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model", "method", "seed")
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Scores the selected run."""
    job = entry.run(arguments)
    evaluate(job, entry.execution(arguments))
    print(job.metrics)
