"""The path from images to logits, loss and probabilities: the one that all stages use.

Pad, network, structure, upsample: training takes the loss at its end; scoring, predicting and exporting take
the probabilities; measuring times the steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from common.errors import UserError
from common.networks.network import Network, Output, upsample
from methods.base import Method


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

    A ValueError of a hook of the method is the user's: it becomes one sentence.

    Attributes:
        network: The network.
        method: The method that it is trained with.
    """

    def __init__(self, network: Network, method: Method) -> None:
        super().__init__()
        self.network, self.method = network, method

    def run_network(self, images: Tensor) -> NetworkOutput:
        """Pads RGB images in 0–255, `[N, 3, H, W]`, and runs the network."""
        padded = self.network.pad(images)
        return NetworkOutput(padded, self.network(padded), (images.shape[2], images.shape[3]))

    def structured(self, result: NetworkOutput) -> Tensor:
        """The logits `[N, K, h, w]` that the method makes of the network's output.

        Raises:
            UserError: The method cannot work with it.
        """
        with _of_the_method():
            return self.method.structure(result.padded, result.output.features, result.output.unary)

    def upsampled(self, logits: Tensor, result: NetworkOutput) -> Tensor:
        """Logits of the output grid at the images' size, `[N, K, H, W]`."""
        return upsample(logits, result.padded, result.size, self.network.align_corners)

    def normalised(self, logits: Tensor, result: NetworkOutput) -> Tensor:
        """Class probabilities `[N, K, H, W]` of logits on the output grid.

        Raises:
            UserError: The method cannot work with them.
        """
        with _of_the_method():
            return self.method.probabilities(self.upsampled(logits, result))

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        result = self.run_network(images)
        return self.normalised(self.structured(result), result)

    def loss(
        self, images: Tensor, labels: Tensor, gather: Callable[[Tensor], Tensor] = lambda share: share
    ) -> Tensor:
        """The loss of a batch, that of the auxiliary classifier included.

        Args:
            images: RGB in 0–255, `[n, 3, H, W]`.
            labels: Integers `[n, H, W]` in 0..K−1, or 255 for void.
            gather: Turns a share of the batch into all of it, if other processes have the rest.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        result = self.run_network(images)
        labels = gather(labels).long()
        logits = self.upsampled(gather(self.structured(result)), result)
        with _of_the_method():
            loss = self.method.loss(logits, labels)
        if result.output.auxiliary is not None:
            auxiliary = self.upsampled(gather(result.output.auxiliary), result)
            with _of_the_method():
                loss = loss + self.network.auxiliary_weight * self.method.auxiliary_loss(auxiliary, labels)
        return loss


def refined(method: Method, images: Tensor, probabilities: Tensor) -> Tensor:
    """A method's refinement of probabilities `[N, K, H, W]` by the images uint8 `[N, 3, H, W]`.

    Raises:
        UserError: The method cannot work with them.
    """
    with _of_the_method():
        return method.refine(images, probabilities)


@contextlib.contextmanager
def _of_the_method() -> Iterator[None]:
    """Turns what a hook says of its input into a sentence for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"the method refuses its input: {error}") from error
