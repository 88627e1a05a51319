"""What is checked: a method, with made-up inputs in float64 for its hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import methods
from common.config import entries, reading
from common.config.method_class import check_class
from common.config.method_facts import cannot_be_loaded
from common.config.settings import typed
from common.datasets.split import Sample
from common.errors import UserError
from common.labels import VOID
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.sights import SIGHTS, asked_for
from common.networks.structured import StructuredNetwork
from common.training.batches import with_prepared
from methods.base import Method

CLASSES = 4
CHANNELS = 6
STRIDE = 8
MODEL = "deeplabv3plus-test_resnet"
OPTIONS = {MODEL: {"weights": "none", "decoder_channels": 8}}


@dataclass(frozen=True)
class Specimen:
    """A method that is checked, with what is put into it.

    Attributes:
        name: The module of `methods/`.
    """

    name: str

    @property
    def kind(self) -> type[Method]:
        """Its class.

        Raises:
            UserError: It cannot be loaded.
        """
        try:
            kind = methods.load(self.name)
            check_class(kind)
        except (Exception, SystemExit) as error:
            raise cannot_be_loaded(self.name, error) from error
        return kind

    def entry(self) -> entries.MethodEntry:
        """What its name means in a configuration without options."""
        return entries.method(self._configuration(), self.name, "digits")

    def build(self, num_classes: int = CLASSES, channels: int = CHANNELS) -> Method:
        """The method with its default options, float64, the same each time."""
        torch.manual_seed(0)
        return self.entry().build(num_classes, channels).double()

    def model(self) -> StructuredNetwork:
        """A small network with the method, float32."""
        options = self._configuration()["model_options"][MODEL]
        torch.manual_seed(0)
        network = Network(MODEL, CLASSES, typed(ModelOptions, options))
        return StructuredNetwork(network, self.entry().build(CLASSES, network.feature_channels))

    def require(self, condition: object, sentence: str) -> None:
        """Raises a UserError about this method unless a condition holds."""
        if not condition:
            raise UserError(f"methods/{self.name}.py: {sentence}")

    def _configuration(self) -> entries.Config:
        """A configuration with the method and nothing else."""
        config = {"datasets": ["digits"], "models": [MODEL], "methods": [self.name], "seeds": [0]}
        return reading.complete(config | {"model_options": OPTIONS})


Check = Callable[[Specimen], None]
"""Raises a UserError if a method does not keep something."""


def example(side: int = 24, num_classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits, float64 `[2, K, side, side]`, and labels `[2, side, side]`, void in the first rows of one."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, num_classes, side, side, generator=generator, dtype=torch.double)
    labels = torch.randint(num_classes, (2, side, side), generator=generator)
    labels[0, : side // 6] = VOID
    return logits, labels


def grid(h: int, w: int, num_classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    """Images `[2, 3, 8h, 8w]`, features and unary scores on a grid; the last two have gradients."""
    generator = torch.Generator().manual_seed(2)
    images = 255 * torch.rand(2, 3, 8 * h, 8 * w, generator=generator, dtype=torch.double)
    features, unary = (
        torch.randn(2, channels, h, w, generator=generator, dtype=torch.double).requires_grad_()
        for channels in (CHANNELS, num_classes)
    )
    return images, features, unary


def pixels(side: int = 24) -> Tensor:
    """Images uint8 `[2, 3, side, side]`."""
    return torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def sights(
    method: Method, labels: Tensor, hook: str = "loss", dtype: torch.dtype = torch.double
) -> dict[str, Tensor]:
    """What a loss asks for beside logits and labels, on the device of the labels.

    Args:
        method: The method.
        labels: `[2, H, W]`.
        hook: `loss` or `auxiliary_loss`.
        dtype: Of images, features and unary; the last two have gradients.
    """
    h, w = (max(1, side // STRIDE) for side in labels.shape[1:])
    _, *maps = grid(h, w, method.num_classes)
    features, unary = (x.detach().to(labels.device, dtype).requires_grad_() for x in maps)
    images = functional.interpolate(pixels().to(labels.device, dtype), labels.shape[1:], mode="nearest")
    prepared = with_prepared(Sample(images, labels.to(torch.uint8)), method)[2:]
    known = dict(zip(SIGHTS, (images, features, unary, *prepared)))
    return {name: known[name] for name in asked_for(type(method), hook)}


def loss_of(method: Method, logits: Tensor, labels: Tensor, hook: str = "loss") -> Tensor:
    """What a loss makes of logits, labels and what else it asks for."""
    return getattr(method, hook)(logits, labels, **sights(method, labels, hook))
