"""Stage `train`: one model, trained by one method with one seed.

A plain loop over iterations. Everything random is drawn from streams that depend on the seed and the
iteration alone, so a run that was killed goes on from its last checkpoint and ends with the same model.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common import config as configuration
from common import devices, distributed, runs, stages
from common.config import Config
from common.datasets.loading import Split, training_batches
from common.distributed import Group
from common.errors import Diverged, UserError
from common.files import locked, read_json, replacing, write_json
from common.models import Network, upsample, weights_digest
from common.provenance import peak_memory, record
from common.seeds import derive
from methods import Method


def train(config: Config, training: runs.Training) -> None:
    """Trains the model of `training` and writes it; a finished one is left as it is.

    A second name of the finished model lies in `state/`: Snakemake deletes the output of a job that it
    did not see the end of, be it complete or not. To train again, delete the folder. After SIGTERM it saves
    a checkpoint and exits with status 143.

    Raises:
        UserError: The data or weights are missing, another process trains this model, the loss is not
            finite any more, or the GPU's memory is too small.
    """
    state = training.folder / "state"
    if distributed.started():
        with distributed.member(state, "train", *_about(config, training)) as group:
            _train(config, training, group)
        return
    if training.file.exists():
        return
    with (
        locked(training.folder / "state" / "lock"),
        stages.recording_failure(training.folder / "error.json", "train", *_about(config, training)),
    ):
        if _restore(training):
            return
        gpus = devices.job_gpus()
        count = config["execution"]["gpus_per_run"] if gpus is None else gpus
        with devices.lease(config["execution"]["device"], count) as found:
            if len(found) > 1:
                _train_together(config, training, found)
            else:
                if found[0].type == "cuda":
                    torch.cuda.set_device(found[0])
                _train(config, training, Group(0, 1, found[0]))


def _about(config: Config, training: runs.Training) -> tuple[str, str]:
    """What is trained, and what to do if that is too much for a GPU."""
    settings = configuration.settings(config, "training", training.dataset, training.model)
    crop = f" of {settings['crop'][0]}×{settings['crop'][1]}" if settings["crop"] else ""
    return (
        f"training {runs.described(training)}, in batches of {settings['batch_size']} images{crop}",
        "use a smaller training.batch_size (with a larger accumulate), training.crop or model, or a GPU with "
        "more memory",
    )


def _restore(training: runs.Training) -> bool:
    """Brings back a finished model that was deleted; says whether there was one."""
    finished = training.folder / "state" / "finished.pt"
    try:
        torch.load(finished, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return False
    except (OSError, MemoryError):  # not the file's fault
        raise
    except Exception:  # a damaged file fails in many ways
        finished.unlink()
        return False
    _name_twice(finished, training.file)
    return True


def _name_twice(path: Path, other: Path) -> None:
    """Gives a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(path, other)
    except OSError:
        with replacing(other, "wb") as file:
            file.write(path.read_bytes())


def _train_together(config: Config, training: runs.Training, found: Sequence[torch.device]) -> None:
    """Starts one process per device, which enter `train` as this one did."""
    configuration.check_share(config, training.dataset, training.model, len(found))
    state = training.folder / "state"
    write_json(state / "config.json", config)
    arguments = ["-m", "common.train", "--configfile", str(state / "config.json")]
    for name in ("dataset", "model", "method", "seed", "digest"):
        arguments += [f"--{name}", str(getattr(training, name))]
    arguments += ["--threads", str(max(1, torch.get_num_threads() // len(found)))]
    distributed.launch(arguments, found, state)


def _train(config: Config, training: runs.Training, group: Group) -> None:
    device = group.device
    settings = configuration.settings(config, "training", training.dataset, training.model)
    options = config["model_options"][training.model]
    execution = config["execution"]
    manifest = read_json(training.manifest.path)
    dataset = configuration.dataset(config, training.dataset)
    network, method = build(config, training, len(dataset.class_names))
    network, method = network.to(device), method.to(device)
    network.train()
    method.train()
    group.prepare(network, method)
    objective = group.wrap(Objective(network, method, options, group))
    optimizer = make_optimizer(network, method, settings)
    checkpoints = Checkpoints(training.folder / "state", training.digest)
    log: list[dict[str, float]] = []
    done, seconds = 0, 0.0
    state = checkpoints.latest()
    if state:
        network.load_state_dict(state["network"])
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        done, seconds, log = state["iteration"], state["seconds"], state["log"]
    del state  # it is as large as the model
    total, accumulate = settings["iterations"], settings["accumulate"]
    batches = training_batches(
        Split(dataset, manifest, settings["split"]),
        settings,
        network.mean.flatten().tolist(),
        training.seed,
        done * accumulate,
        total * accumulate,
        _workers(execution, device),
        (group.rank, group.size),
    )
    losses: list[Tensor] = []
    window_start, window_iterations, window_waited = time.monotonic(), 0, 0.0
    started = time.monotonic() - seconds
    hidden = None if group.leads else True  # None hides it where there is no terminal
    progress = tqdm(
        total=total, initial=done, desc=training.method, unit="it", disable=hidden, dynamic_ncols=True
    )
    about = inspect.getdoc(inspect.getmodule(type(method))) or ""
    logging = Log(training, log, done, about) if group.leads else nullcontext()
    with logging as logger, progress, closing(batches), Preemption() as preemption:
        for iteration in range(done, total):
            method.progress = iteration / total
            rate = set_learning_rate(optimizer, settings, iteration)
            losses.append(
                training_step(
                    network, method, optimizer, batches, settings, options, device,
                    derive(training.seed, "dropout", iteration), objective,
                )
            )  # fmt: skip
            window_iterations += 1
            progress.update()
            finished = iteration + 1
            last = finished == total
            preempted = group.any(preemption.asked) and not last
            saving = (finished % execution["checkpoint_every"] == 0 and not last) or preempted
            if finished % execution["log_every"] == 0 or saving or last:
                loss = _mean_loss(losses, finished)
                losses.clear()
                now = time.monotonic()
                images = window_iterations * settings["batch_size"] * accumulate
                if logger:
                    logger.write(
                        {
                            "iteration": finished,
                            "loss": loss,
                            "learning_rate": rate,
                            "images_per_second": images / (now - window_start),
                            "waiting_for_data": (batches.waited - window_waited) / (now - window_start),
                            "seconds": now - started,
                            **method.diagnostics(),
                        }
                    )
                window_start, window_iterations, window_waited = now, 0, batches.waited
                progress.set_postfix(loss=f"{loss:.3f}")
            if saving and group.leads:
                checkpoints.save(
                    {
                        "iteration": finished,
                        "seconds": time.monotonic() - started,
                        "log": log,
                        "network": network.state_dict(),
                        "method": method.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    }
                )
            if preempted:
                group.any(False)  # the first to end has the others ended: wait until all is saved
                print(f"structseg: asked to end at iteration {finished}; the same command goes on from there")
                sys.exit(128 + signal.SIGTERM)
    if not group.leads:
        return
    machine = devices.describe(device)
    entry = configuration.method(config, training.method, training.dataset)
    model = {
        "dataset": training.dataset,
        "model": training.model,
        "model_options": options,
        "method": training.method,
        "method_module": entry.module,
        "method_code": runs.code_digest(entry.module),
        "method_options": entry.options,
        "num_classes": len(dataset.class_names),
        "class_names": list(dataset.class_names),
        "colours": [list(colour) for colour in dataset.colours],
        "seed": training.seed,
        "digest": training.digest,
        "training": settings,
        "content_sha256": manifest["content_sha256"],
        "weights_sha256": weights_digest(options["weights"]),
        "processes": group.size,
        "provenance": record(machine if group.size == 1 else f"{group.size} × {machine}"),
        "wall_seconds": time.monotonic() - started,
        "peak_memory": peak_memory(device),
        "network": network.state_dict(),
        "method_state": method.state_dict(),
    }
    finished = training.folder / "state" / "finished.pt"
    with replacing(finished, "wb") as file:
        torch.save(model, file)
    _name_twice(finished, training.file)
    checkpoints.clear()


# The pieces of the loop, which the measure stage times


def build(
    config: Config, training: runs.Training, num_classes: int, pretrained: bool = True
) -> tuple[Network, Method]:
    """The network and method that a training starts with; the network is the same for all methods.

    Args:
        config: The configuration.
        training: What is to be trained.
        num_classes: K.
        pretrained: Whether to load the backbone's weights if the configuration says so.
    """
    torch.manual_seed(derive(training.seed, "initialisation"))
    options = config["model_options"][training.model] | ({} if pretrained else {"weights": "none"})
    if "dataset" in (options["mean"], options["std"]):
        name = configuration.settings(config, "training", training.dataset, training.model)["split"]
        dataset = configuration.dataset(config, training.dataset)
        colours = Split(dataset, read_json(training.manifest.path), name).colours()
        options |= {key: colours[key] for key in ("mean", "std") if options[key] == "dataset"}
    network = Network(training.model, num_classes, options)
    torch.manual_seed(derive(training.seed, "method"))
    entry = configuration.method(config, training.method, training.dataset)
    method = entry.build(num_classes, network.feature_channels)
    return network.to(memory_format=torch.channels_last), method


def make_optimizer(network: Network, method: Method, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """SGD or AdamW with groups for encoder and head, biases and normalisation without decay."""
    head = [network.decoder, network.classifier, method]
    if network.auxiliary:
        head.append(network.auxiliary)
    groups = []
    for modules, multiplier in (([network.encoder], 1.0), (head, settings["head_multiplier"])):
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for decay, chosen in (
            (settings["weight_decay"], [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "multiplier": multiplier})
    rate = settings["learning_rate"]
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=settings["momentum"], fused=True)


def learning_rate(settings: dict[str, Any], iteration: int) -> float:
    """The encoder's learning rate of an iteration: linear warm-up, then the schedule over the rest."""
    rate, warmup = settings["learning_rate"], settings["warmup"]
    if iteration < warmup:
        start = settings["warmup_factor"]
        return rate * (start + (1 - start) * iteration / warmup)
    share = (iteration - warmup) / (settings["iterations"] - warmup)
    if settings["schedule"] == "poly":
        return rate * (1 - share) ** settings["power"]
    if settings["schedule"] == "cosine":
        return rate * (1 + math.cos(math.pi * share)) / 2
    return rate * settings["step_factor"] ** bisect_right(sorted(settings["step_at"]), share)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: dict[str, Any], iteration: int) -> float:
    """Sets the learning rate of every group for an iteration and returns the encoder's."""
    rate = learning_rate(settings, iteration)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
    return rate


def training_step(
    network: Network,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Any],
    settings: dict[str, Any],
    options: dict[str, Any],
    device: torch.device,
    seed: int,
    objective: nn.Module | None = None,
) -> Tensor:
    """One step of the optimiser over `accumulate` batches.

    Args:
        network: The network, in training mode.
        method: The method, likewise.
        optimizer: Of both.
        batches: Gives images uint8 `[N, 3, H, W]` and labels `[N, H, W]`.
        settings: The training settings.
        options: The model's options.
        device: Where network and method are.
        seed: Of everything random inside the network.
        objective: `Objective` of network and method, maybe with other processes.

    Returns:
        The loss, a detached scalar on the device.
    """
    torch.manual_seed(seed)
    optimizer.zero_grad(set_to_none=True)
    objective = objective or Objective(network, method, options)
    total = torch.zeros((), device=device)
    for left in reversed(range(settings["accumulate"])):
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        with distributed.unsynchronised(objective) if left else nullcontext():
            with autocast(device, settings["precision"]):
                loss = objective(images, labels)
            loss = loss / settings["accumulate"]
            loss.backward()
        total += loss.detach()
    if settings["gradient_clip"] is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, settings["gradient_clip"])
    optimizer.step()
    return total


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which the network computes in the configured precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class Objective(nn.Module):
    """What a step makes smaller: the loss of a batch, as a module of network and method."""

    def __init__(
        self, network: Network, method: Method, options: dict[str, Any], group: Group | None = None
    ) -> None:
        """
        Args:
            network: The network.
            method: The method.
            options: The model's options.
            group: The processes that each have a share of the batch.
        """
        super().__init__()
        self.network, self.method, self.options = network, method, options
        self.gather = group.gather if group else lambda own: own

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of the whole batch, from this process's share of images uint8 and of labels."""
        return batch_loss(self.network, self.method, images, labels, self.options, self.gather)


def batch_loss(
    network: Network,
    method: Method,
    images: Tensor,
    labels: Tensor,
    options: dict[str, Any],
    gather: Callable[[Tensor], Tensor] = lambda own: own,
) -> Tensor:
    """The loss of one batch, that of the auxiliary classifier included; images are uint8.

    `gather` turns a share of the batch into all of it, if other processes have the rest.
    """
    padded = network.pad(images)
    output = network(padded)
    size, corners = labels.shape[1:], options["align_corners"]
    labels = gather(labels).long()
    try:
        logits = gather(method.structure(padded, output.features, output.unary))
        loss = method.loss(upsample(logits, padded, size, corners), labels)
    except ValueError as error:  # the method cannot work with images of this size, say
        raise UserError(f"the method refuses its input: {error}") from error
    if output.auxiliary is not None:
        auxiliary = upsample(gather(output.auxiliary), padded, size, corners)
        loss = loss + options["auxiliary_weight"] * method.auxiliary_loss(auxiliary, labels)
    return loss


def _mean_loss(losses: list[Tensor], finished: int) -> float:
    """The mean of the last losses; a loss that is not finite ends the run."""
    values = torch.stack(losses).tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            iteration = finished - len(values) + offset + 1
            raise Diverged(
                f"the loss is {value} at iteration {iteration}: lower training.learning_rate, use "
                "warmup or set gradient_clip"
            )
    return math.fsum(values) / len(values)


def _workers(execution: dict[str, Any], device: torch.device) -> int:
    if execution["workers"] is not None:
        return execution["workers"]
    spare = torch.get_num_threads() - 1
    return spare if device.type == "cuda" else min(1, spare)


# Checkpoints and logs


class Checkpoints:
    """The last two checkpoints of one training, each whole or absent."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.digest = digest
        self.current = folder / "checkpoint.pt"
        self.previous = folder / "previous.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint and keeps the one before."""
        if self.current.exists():
            os.replace(self.current, self.previous)
        with replacing(self.current, "wb") as file:
            torch.save(state | {"digest": self.digest}, file)

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint of this very training that can be read, or None."""
        for path in (self.current, self.previous):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except (OSError, MemoryError):  # not the file's fault
                raise
            except Exception as error:  # a damaged file fails in many ways
                print(f"structseg: {path} is damaged ({type(error).__name__}) and removed")
                path.unlink(missing_ok=True)  # the next save would put it in the place of a whole one
                continue
            if state.get("digest") == self.digest:
                return state
        return None

    def clear(self) -> None:
        """Removes the checkpoints of a finished training."""
        for path in (self.current, self.previous):
            path.unlink(missing_ok=True)


class Preemption:
    """Notices SIGTERM, with which clusters warn a job before they kill it.

    Attributes:
        asked: Whether it has come.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_: object) -> None:
        self.asked = True


class Log:
    """`training.jsonl` and the TensorBoard files; what a killed process wrote too much is dropped."""

    def __init__(
        self, training: runs.Training, lines: list[dict[str, float]], done: int, about: str = ""
    ) -> None:
        """
        Args:
            training: Whose log it is.
            lines: The lines up to the checkpoint that training goes on from; new ones are added.
            done: Iterations done at that checkpoint.
            about: What TensorBoard shows as a text beside the curves, such as whether a loss can be negative.
        """
        self.lines = lines
        training.log.parent.mkdir(parents=True, exist_ok=True)
        self.file = training.log.open("w", encoding="utf-8")
        for line in lines:
            self._append(line)
        self.board = SummaryWriter(str(training.folder / "tensorboard"), purge_step=done + 1)
        if about:
            self.board.add_text("method", about)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()

    def write(self, line: dict[str, float]) -> None:
        """Adds one line; it has an `iteration`."""
        self.lines.append(line)
        self._append(line)
        for key, value in line.items():
            if key != "iteration":
                self.board.add_scalar(key, value, line["iteration"])

    def _append(self, line: dict[str, float]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def _main() -> None:
    parsed = stages.arguments(
        "Trains one model; goes on from its last checkpoint.", "dataset", "model", "method", "seed"
    )
    config = parsed.config
    name = configuration.trained_method(config, parsed.method, parsed.dataset).name
    training = runs.training(config, parsed.dataset, parsed.model, name, parsed.seed)
    stages.check_digest(parsed.digest, training.digest)
    train(config, training)
    if not distributed.started():
        print(training.file)


if __name__ == "__main__":
    stages.main(_main)
