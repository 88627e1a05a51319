"""Stage `measure`: what one run costs, while no other job of ours uses the machine.

Times are wall times after warm-up with the device's queue emptied before and after: inference of
single images at their original size, split into network, structure and refinement, whole batches, and steps
of training on real batches without the loading of data. What other programs did meanwhile is noted.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time

import torch

from common import failures, phases
from common.config.settings import Execution, plain
from common.datasets.split import Split
from common.errors import UserError
from common.machine import devices, job_locks
from common.prediction.predictor import Predictor
from common.provenance import Provenance, peak_memory
from common.runs import jobs, recipes
from common.runs.jobs import TrainedRun
from common.runs.outputs import forget_tables
from common.runs.records import Cost, TrainingPart
from common.stages import entry
from common.timing import quiet
from common.timing.clock import LEAST_SECONDS
from common.timing.inference import batch_cost, example_images, inference_cost
from common.timing.training import TrainingCost, training_cost


def measure(run: TrainedRun, execution: Execution) -> None:
    """Writes the run's `cost-<n>.json`, n its recipe; times are medians in milliseconds, memory is in bytes.

    Raises:
        UserError: The trained model or the data are missing, or another machine has measured the run.
    """
    _check_machine(run, execution)
    with contextlib.ExitStack() as stack:
        about = f"measuring {jobs.description(run)}"
        stack.enter_context(failures.recording_failure(run.error, "measure", about))
        device = stack.enter_context(devices.leased(execution.device))
        start = time.monotonic()
        with job_locks.shared(device.type), phases.during(phases.LOADING):
            predictor = Predictor.of(run, device)
            split = Split(run.data.dataset, run.data.manifest(), run.evaluation.split)
            images = example_images(split, device)
        watch = stack.enter_context(quiet.measuring(device, execution.quiet_wait))
        inference = inference_cost(predictor, images, least=LEAST_SECONDS)
        batches = batch_cost(predictor, images[0])
        parameters = sum(p.numel() for model in predictor.models for p in model.parameters())
        state_sha256, *members_sha256 = (
            facts.state_sha256 for facts in (predictor.facts, *predictor.other_facts)
        )
        del predictor, images
        training = training_cost(run.training, execution, device, least=LEAST_SECONDS)
        parts = _parts(run, training, execution, device)
        load = watch.load()
        if load.busy:
            print(f"structseg: measured on a busy machine: {load.busy}")
        forget_tables(run.results)
        Cost(
            dataset=run.dataset,
            model=run.model,
            method=run.method,
            seed=run.seed,
            digest=run.digest,
            recipe=recipes.MEASURING.number,
            parameters=parameters,
            **vars(inference),
            **vars(batches),
            **vars(training),
            training_parts=parts,
            method_options=run.entry.options,
            model_options=plain(run.training.model_options),
            threads=torch.get_num_threads(),
            load=load,
            wall_seconds=round(time.monotonic() - start - watch.waited, 3),
            peak_memory=peak_memory(device),
            state_sha256=state_sha256,
            members_sha256=members_sha256,
            provenance=Provenance.now(devices.describe(device)),
        ).write(run.cost)


def _parts(
    run: TrainedRun, own: TrainingCost, execution: Execution, device: torch.device
) -> list[TrainingPart]:
    """What everything costs that is trained for a run; `own` is what its own training costs."""
    parts = []
    for training in run.training.chain:
        cost = own
        if training is not run.training:
            cost = training_cost(training, execution, device, least=LEAST_SECONDS)
        iterations = training.settings.iterations
        parts.append(TrainingPart(training.method, iterations, cost.training_step_ms, len(run.members)))
    return parts


def _check_machine(run: TrainedRun, execution: Execution) -> None:
    """Refuses to replace what another machine has measured.

    Raises:
        UserError: One has.
    """
    try:
        before = Cost.read(run).device
    except UserError:  # there is none, or none that is worth anything
        return
    now = devices.describe(devices.choose(execution.device))
    if re.sub(r", \d+ threads$", "", before) != re.sub(r", \d+ threads$", "", now):
        raise UserError(
            f"{run.cost} has the times of another machine ({before}; this is {now}): delete it to measure "
            "the run here instead"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the run and the machine."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model", "method", "seed")
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures the selected run."""
    job = entry.trained_run(arguments)
    measure(job, entry.execution(arguments))
    print(job.cost)
