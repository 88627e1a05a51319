"""One step of training, and what it needs: network and method, optimiser, learning rate, loss."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common import compiler
from common.config.settings import TrainingSettings
from common.datasets.split import Split
from common.errors import UserError
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork
from common.runs.jobs import Training
from common.seeds import derive
from common.training.batches import AnySample
from common.training.group import unsynchronised
from methods.base import Method


def build(training: Training, pretrained: bool = True) -> StructuredNetwork:
    """The network and method that a training starts with; the network is the same for all methods.

    Args:
        training: What is to be trained.
        pretrained: Whether to load the backbone's weights if the model's options say so, unless the training
            starts from a trained model, whose weights `starting.load_start` loads.

    Raises:
        UserError: The network cannot be built, its weights cannot be had, the dataset's colours are wanted
            and it was not prepared, or nothing is left to be trained.
    """
    num_classes = len(training.data.dataset.class_names)
    pretrained = pretrained and training.start is None
    torch.manual_seed(derive(training.stream, "initialisation"))
    network = Network(training.model, num_classes, _starting_options(training, pretrained))
    if pretrained and training.weights_sha256 not in (None, network.weights_sha256):
        raise UserError(
            f"model_options.{training.model}.weights: {training.model_options.weights} changed since this "
            "job was planned: bring that file back, or give the new one another name, and run again"
        )
    torch.manual_seed(derive(training.stream, "method"))
    method = training.entry.build(num_classes, network.feature_channels)
    model = StructuredNetwork(network.to(memory_format=torch.channels_last), method)
    if training.entry.freeze:
        _check_trainable(training, method)
        model.freeze_network()
    return model


def _check_trainable(training: Training, method: Method) -> None:
    """Refuses a method without parameters where nothing else is trained."""
    if not any(parameter.requires_grad for parameter in method.parameters()):
        raise UserError(
            f"method_options.{training.method}.freeze: methods/{training.entry.module}.py has no parameters, "
            "so that nothing is left to be trained: leave it out"
        )


def _starting_options(training: Training, pretrained: bool) -> ModelOptions:
    """The model's options, with the dataset's own colours where they are asked for."""
    options = training.model_options
    if not pretrained:
        options = replace(options, weights="none")
    if "dataset" in (options.mean, options.std):
        split = Split(training.data.dataset, training.data.manifest(), training.settings.split)
        colours: dict[str, Any] = split.colours()
        options = replace(
            options, **{key: value for key, value in colours.items() if getattr(options, key) == "dataset"}
        )
    return options


@compiler.put_off()
def make_optimizer(model: StructuredNetwork, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD or AdamW with groups for encoder and head, biases and normalisation without decay if not asked for.

    Every group has the key `multiplier`: what the encoder's learning rate is multiplied by.

    Args:
        model: Network and method; the method belongs to the head.
        settings: The settings of training.
    """
    network = model.network
    head = [network.decoder, network.classifier, model.method]
    if network.auxiliary:
        head.append(network.auxiliary)
    groups = []
    for modules, multiplier in (([network.encoder], 1.0), (head, settings.head_multiplier)):
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for decay, decayed in (
            (settings.weight_decay, [p for p in parameters if p.ndim > 1 or settings.decay_all]),
            (0.0, [p for p in parameters if p.ndim <= 1 and not settings.decay_all]),
        ):
            if decayed:
                groups.append({"params": decayed, "weight_decay": decay, "multiplier": multiplier})
    rate = settings.learning_rate
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, fused=True)


def learning_rate(settings: TrainingSettings, iteration: int) -> float:
    """The encoder's learning rate of an iteration: linear warm-up, then the schedule over the rest."""
    rate, warmup = settings.learning_rate, settings.warmup
    if iteration < warmup:
        start = settings.warmup_factor
        return rate * (start + (1 - start) * iteration / warmup)
    share = (iteration - warmup) / (settings.iterations - warmup)
    if settings.schedule == "poly":
        return rate * (1 - share) ** settings.power
    if settings.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * share)) / 2
    return rate * settings.step_factor ** bisect_right(sorted(settings.step_at), share)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, iteration: int) -> float:
    """Sets the learning rate of every group for an iteration and returns the encoder's."""
    rate = learning_rate(settings, iteration)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
    return rate


class Objective(nn.Module):
    """What a step makes smaller: the loss of a batch, as a module that several processes can share."""

    def __init__(
        self,
        model: StructuredNetwork,
        compiled: bool = False,
        gather: Callable[[Tensor], Tensor] = lambda share: share,
    ) -> None:
        """
        Args:
            model: Network and method.
            compiled: Whether the network is compiled, at its first batch and for batches of that size.
            gather: Turns a share of the batch into all of it, if other processes have the rest.
        """
        super().__init__()
        self.model, self.gather = model, gather
        if compiled:
            model.network.compile(dynamic=False)

    def forward(self, images: Tensor, labels: Tensor, prepared: Tensor | None = None) -> Tensor:
        """The loss of the whole batch, from this process's share of it.

        Args:
            images: RGB in 0–255, `[n, 3, H, W]`.
            labels: Integers `[n, H, W]` in 0..K−1, or 255 for void.
            prepared: What the method has prepared of the labels, `[n, …]`, if it does that.

        Returns:
            A scalar.

        Raises:
            UserError: The method or the network cannot work with images of this size, or the network cannot
                be compiled.
        """
        try:
            return self.model.loss(images, labels, self.gather, prepared)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"training.compile: PyTorch cannot compile the network here ({reason}): it needs a C++ "
                "compiler, and on a GPU Triton; install them, or set it to false"
            ) from error


@compiler.put_off()
def training_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[AnySample],
    settings: TrainingSettings,
    device: torch.device,
    seed: int,
) -> Tensor:
    """One step of the optimiser over `accumulate` batches.

    Args:
        objective: `Objective` of a network and a method in training mode, maybe shared with other processes.
        optimizer: Of both.
        batches: Gives images uint8 `[N, 3, H, W]`, labels `[N, H, W]` and, if the method prepares something,
            that.
        settings: The settings of training.
        device: Where network and method are.
        seed: Of everything random inside the network.

    Returns:
        The loss, a detached scalar on the device.

    Raises:
        UserError: An image cannot be read, or the method or the network cannot work with images of this size.
    """
    torch.manual_seed(seed)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    own: Any = getattr(objective, "module", objective)  # as it is before it is shared
    for remaining in reversed(range(settings.accumulate)):
        batch = [part.to(device, non_blocking=True) for part in next(batches)]
        with unsynchronised(objective) if remaining else nullcontext():
            with autocast(device, settings.precision):
                loss = objective(*batch)
            loss = loss / settings.accumulate
            own.model.hooks.backward(loss)
        total += loss.detach()
    if settings.gradient_clip is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
    optimizer.step()
    return total


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which the network computes in the configured precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
