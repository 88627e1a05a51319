"""The loop of a training: a plain one over iterations, from its last checkpoint to the finished model."""

from __future__ import annotations

import inspect
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from common import phases
from common.config.method_code import code_digest
from common.config.settings import Execution, plain
from common.datasets.manifest import Manifest
from common.machine import devices
from common.networks.hooks import Hooks
from common.networks.structured import StructuredNetwork
from common.provenance import Provenance, peak_memory
from common.runs import recipes
from common.runs.jobs import Training
from common.runs.records import TrainedModel, TrainedModelFacts, state_sha256
from common.seeds import derive
from common.training import finished_model
from common.training.batches import Batches, preparing, training_batches
from common.training.checkpoints import Checkpoint, Checkpoints, Origin
from common.training.group import ProcessGroup
from common.training.images import training_images
from common.training.monitor import Monitor
from common.training.preemption import Preemption
from common.training.starting import load_start
from common.training.step import Objective, build, make_optimizer, set_learning_rate, training_step
from methods.base import Method

if TYPE_CHECKING:
    from common.training.validation import Validation


def train_model(training: Training, execution: Execution, group: ProcessGroup) -> None:
    """Trains a model from its last checkpoint on, and writes it.

    After SIGTERM or SIGINT it saves a checkpoint and exits with status 143.

    Args:
        training: What is trained.
        execution: How; the model does not depend on it, but for rounding.
        group: The processes that train it together.

    Raises:
        UserError: The data or weights are missing, or the loss is not finite any more.
    """
    settings, total = training.settings, training.settings.iterations
    with phases.during(phases.LOADING):
        model = build(training).to(group.device).train()
        started = load_start(training, model)
        hooks = preparing(model.method)  # whatever is trained, and wherever it goes on
    group.prepare(model)
    objective = group.wrap(Objective(model, settings.compile, group.gather))
    optimizer = make_optimizer(model, settings)
    manifest = training.data.manifest()  # that of the start, whatever becomes of the file
    checkpoints = Checkpoints(training.state, training.digest, _origin(manifest, model, started, group))
    start = checkpoints.resume(model, optimizer)
    batches = _batches(training, manifest, execution, group, model, hooks, start.iteration)
    validation = _validation(training, manifest, execution, group, model)
    monitor = Monitor(training, batches, start, _about(model.method), validation, silent=not group.leads)
    with monitor, closing(batches), Preemption() as preemption, checkpoints.beside():
        for iteration in range(start.iteration, total):
            model.method.progress = iteration / total
            rate = set_learning_rate(optimizer, settings, iteration)
            seed = derive(training.stream, "dropout", iteration)
            monitor.step(training_step(objective, optimizer, batches, settings, group.device, seed))
            done = iteration + 1
            ends = done == total
            preempted = group.any(preemption.requested) and not ends
            validates = monitor.validates(done) and not preempted
            saves = preempted or (done % execution.checkpoint_every == 0 and not ends)
            if saves or ends or validates or done % execution.log_every == 0:
                monitor.write(done, rate, model.hooks.diagnostics())
                checkpoints.look()
            if validates:
                monitor.validate(model, done, lambda: preemption.requested)
            if saves and group.leads:
                checkpoints.begin(Checkpoint.of(monitor.position(done), model, optimizer))
            if preempted:
                checkpoints.wait()
                _end(group, done)
    if group.leads:
        record = _record(training, group, model, checkpoints.origin, monitor.seconds, started)
        finished_model.keep(training, record)
        checkpoints.clear()


def _origin(
    manifest: Manifest, model: StructuredNetwork, started: TrainedModelFacts | None, group: ProcessGroup
) -> Origin:
    """What a training comes from: data, first weights or the model that it starts from, and this process."""
    weights = started.weights_sha256 if started else model.network.weights_sha256
    state = started.state_sha256 if started else None
    return Origin(manifest.content_sha256, weights, [_provenance(group)], state)


def _about(method: Method) -> str:
    """What the file of a method says of it."""
    return inspect.getdoc(inspect.getmodule(type(method))) or ""


def _batches(
    training: Training,
    manifest: Manifest,
    execution: Execution,
    group: ProcessGroup,
    model: StructuredNetwork,
    hooks: Hooks | None,
    first: int,
) -> Batches:
    """The batches of all iterations from `first` on, this process's share of each."""
    settings = training.settings
    split = training_images(training.data.dataset, manifest, settings)
    if "split" not in training.entry.training:  # what is fitted on images of its own need not see every class
        split.check_classes()
    return training_batches(
        split,
        settings,
        model.network.mean.flatten().tolist(),
        training.stream,
        first * settings.accumulate,
        settings.iterations * settings.accumulate,
        _workers(execution, group.device),
        (group.rank, group.size),
        hooks,
    )


def _validation(
    training: Training,
    manifest: Manifest,
    execution: Execution,
    group: ProcessGroup,
    model: StructuredNetwork,
) -> Validation | None:
    """What scores the model while it is trained, if that is wanted and there are images for it."""
    if not execution.validate_every or training.settings.hold_out:  # a search scores its candidates itself
        return None
    reason = training.data.dataset.not_validated(training.settings.split)
    if reason:
        print(f"structseg: {training.dataset} is not validated while training: {reason}")
        return None
    from common.training.validation import Validation  # with what only this needs, such as scoring

    return Validation(training, manifest, execution, group, model)


def _workers(execution: Execution, device: torch.device) -> int:
    """How many processes load images."""
    if execution.workers is not None:
        return execution.workers
    spare = torch.get_num_threads() - 1
    return spare if device.type == "cuda" else min(1, spare)


def _end(group: ProcessGroup, done: int) -> None:
    """Ends this process, and so its group, after a signal: the checkpoint is saved."""
    group.any(False)  # the first to end has the others ended: wait until all is saved
    print(f"structseg: asked to end at iteration {done}; the same command goes on from there")
    sys.exit(128 + signal.SIGTERM)


def _provenance(group: ProcessGroup) -> Provenance:
    """How what is computed now comes to be."""
    machine = devices.describe(group.device)
    return Provenance.now(machine if group.size == 1 else f"{group.size} × {machine}")


def _record(
    training: Training,
    group: ProcessGroup,
    model: StructuredNetwork,
    origin: Origin,
    seconds: float,
    started: TrainedModelFacts | None,
) -> TrainedModel:
    """The trained model with all that is needed to use it."""
    dataset, options = training.data.dataset, training.model_options
    states = model.network.state_dict(), model.method.state_dict()
    return TrainedModel(
        dataset=training.dataset,
        model=training.model,
        model_options=plain(options),
        method=training.method,
        method_module=training.entry.module,
        method_code=code_digest(training.entry.module),
        method_options=training.entry.options,
        num_classes=len(dataset.class_names),
        class_names=list(dataset.class_names),
        colours=list(dataset.colours),
        seed=training.seed,
        member=training.member,
        digest=training.digest,
        recipe=recipes.TRAINING.number,
        training=plain(training.settings),
        content_sha256=origin.content_sha256,
        weights_sha256=origin.weights_sha256,
        start=started,
        processes=group.size,
        provenance=_provenance(group),
        earlier=origin.processes[:-1],
        wall_seconds=seconds,
        peak_memory=peak_memory(group.device),
        state_sha256=state_sha256(*states),
        network=states[0],
        method_state=states[1],
    )
