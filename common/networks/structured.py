"""The path from images to logits, loss and probabilities: the one that all stages use.

Pad, network, structure, upsample: training takes the loss at its end; scoring, predicting and exporting take
the probabilities; measuring times the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.labels import VOID
from common.networks.hooks import Hooks, are_labels
from common.networks.network import Network, Output, upsample
from common.networks.sights import LOSSES
from methods.base import Method, Refinable


class NetworkOutput(NamedTuple):
    """What a network says of images, with what is needed to bring it back to their size.

    Attributes:
        padded: The network's input, float `[N, 3, H', W']`.
        output: Features, unary and auxiliary scores on their grids.
        size: H and W of the images.
    """

    padded: Tensor
    output: Output
    size: tuple[int, int]


class StructuredNetwork(nn.Module):
    """A network and the method that gives its output structure.

    What goes wrong in a hook of the method is a sentence that names its file and the hook.

    Attributes:
        network: The network.
        method: The method that it is trained with.
        frozen: Whether the network stays as it is while the method is trained.
    """

    def __init__(self, network: Network, method: Method) -> None:
        super().__init__()
        self.network, self.method = network, method
        self.frozen = False
        method.alignment = network.alignment

    def freeze_network(self) -> None:
        """Leaves the network as it is, in training too: its weights and BatchNorm's statistics."""
        self.frozen = True
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> StructuredNetwork:
        """Switches training mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    @property
    def hooks(self) -> Hooks:
        """The hooks of the method, with checks of what they return."""
        return Hooks(self.method)

    def run_network(self, images: Tensor) -> NetworkOutput:
        """Pads RGB images in 0–255, `[N, 3, H, W]`, and runs the network."""
        padded = self.network.pad(images)
        return NetworkOutput(padded, self.network(padded), (images.shape[2], images.shape[3]))

    def structured(self, result: NetworkOutput) -> Tensor:
        """The logits `[N, K, h, w]` that the method makes of the network's output; the grid may be finer.

        Raises:
            UserError: The method cannot work with it, or makes something else of it.
        """
        return self.hooks.structure(result.padded, result.output.features, result.output.unary)

    def upsampled(self, logits: Tensor, result: NetworkOutput) -> Tensor:
        """Logits of the output grid or a finer one at the images' size, `[N, K, H, W]`."""
        return upsample(logits, result.padded, result.size, self.network.align_corners)

    def normalised(self, logits: Tensor, result: NetworkOutput, kind: Refinable = "trained") -> Tensor:
        """Class probabilities `[N, K, H, W]` of logits on the output grid or a finer one.

        Args:
            logits: `[N, K, h, w]`.
            result: What the network made of the images.
            kind: Those that the method's loss trains, or the softmax.

        Raises:
            UserError: The method cannot work with them.
        """
        logits = self.upsampled(logits, result)
        if kind == "softmax":
            return logits.softmax(dim=1)
        return self.hooks.probabilities(logits)

    def probabilities(self, images: Tensor, kind: Refinable = "trained") -> Tensor:
        """Class probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`.

        Args:
            images: The images.
            kind: Those that the method's loss trains, or the softmax.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        result = self.run_network(images)
        return self.normalised(self.structured(result), result, kind)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        gather: Callable[[Tensor], Tensor] = lambda share: share,
        prepared: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, that of the auxiliary classifier included.

        Args:
            images: RGB in 0–255, `[n, 3, H, W]`.
            labels: Integers `[n, H, W]` in 0..K−1, or 255 for void.
            gather: Turns a share of the batch into all of it, if other processes have the rest.
            prepared: What the method has prepared of the labels, `[n, …]`, if it does that.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        result = self.run_network(images)
        labels = gather(labels).long()
        of_losses = LOSSES if result.output.auxiliary is not None else LOSSES[:1]
        asked = {name for hook in of_losses for name in self.hooks.asked_for(hook)}
        seen = {name: gather(sight) for name, sight in _sights(images, result, prepared) if name in asked}
        if "images" in seen:
            seen["images"] = seen["images"].float()
        auxiliary: Tensor | float = 0.0
        if result.output.auxiliary is not None:  # first, so that the diagnostics are of the main loss
            logits = self.upsampled(gather(result.output.auxiliary), result)
            loss = self.hooks.loss(logits, labels, "auxiliary_loss", seen)
            auxiliary = self.network.auxiliary_weight * loss
        logits = self.upsampled(gather(self.structured(result)), result)
        return self.hooks.loss(logits, labels, sights=seen) + auxiliary


def _sights(images: Tensor, result: NetworkOutput, prepared: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """All that losses may ask for, of a share of a batch, by name."""
    yield from (("images", images), ("features", result.output.features), ("unary", result.output.unary))
    if prepared is not None:
        yield "prepared", prepared


class Refined(NamedTuple):
    """What has become of images.

    Attributes:
        probabilities: Refined, `[N, K, H, W]`; where labels are decided by a rule, those that it was given.
        decided: The labels of that rule, uint8 `[N, H, W]`, 255 where it gave no class; None if the most
            probable classes are the labels.
    """

    probabilities: Tensor
    decided: Tensor | None = None

    def each(self) -> Iterator[Refined]:
        """Every image alone, N = 1."""
        labels = [None] * len(self.probabilities) if self.decided is None else self.decided.split(1)
        yield from map(Refined, self.probabilities.split(1), labels)


def refined(method: Method, images: Tensor, probabilities: Tensor) -> Refined:
    """A method's refinement of probabilities `[N, K, H, W]` by the images uint8 `[N, 3, H, W]`.

    Raises:
        UserError: The method cannot work with them.
    """
    result = Hooks(method).refine(images, probabilities)
    if not are_labels(result):
        return Refined(result)
    classes = probabilities.shape[1]
    return Refined(probabilities, result.where((result >= 0) & (result < classes), VOID).to(torch.uint8))
