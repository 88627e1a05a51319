"""A network, trained or not, with a method's refinement: from images to probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from common.config.entries import MethodEntry
from common.config.settings import EvaluationSettings
from common.errors import Diverged, UserError
from common.networks.hooks import SUM_TOLERANCE, place
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork, refined
from common.runs.jobs import TrainedRun
from common.runs.records import TrainedModel, TrainedModelFacts
from methods.base import Method, Refinable


class View(NamedTuple):
    """One way of looking at images.

    Attributes:
        scale: The factor of their sides.
        flip: Whether they are mirrored left to right.
    """

    scale: float = 1.0
    flip: bool = False

    def of(self, images: Tensor) -> Tensor:
        """The images `[N, 3, H, W]` as they are seen: themselves, or float at another size."""
        h, w = images.shape[2:]
        if self.scale != 1:
            size = [_scaled(side, self.scale) for side in (h, w)]
            images = functional.interpolate(
                images.float(), size, mode="bilinear", align_corners=False, antialias=True
            ).clamp(0, 255)
        return images.flip(3) if self.flip else images

    def back(self, probabilities: Tensor, size: Sequence[int]) -> Tensor:
        """Probabilities `[N, K, h, w]` of what was seen, back at the size H, W of the image."""
        if self.flip:
            probabilities = probabilities.flip(3)
        if probabilities.shape[2:] == tuple(size):
            return probabilities
        return functional.interpolate(probabilities, tuple(size), mode="bilinear", align_corners=False)


def _scaled(side: int, scale: float) -> int:
    """The length of a side at a scale; where PyTorch traces, it is a tensor, which the file computes with."""
    if isinstance(side, Tensor):
        return (side.double() * scale).round().long().clamp(min=1)
    return max(1, round(side * scale))


def views(settings: EvaluationSettings) -> tuple[View, ...]:
    """All views that the evaluation settings `scales` and `flip` ask for, the plain one last."""
    flips = (True, False) if settings.flip else (False,)
    wanted = [View(scale, flip) for scale in settings.scales for flip in flips]
    return tuple(sorted(wanted, key=lambda view: view == View()))


@dataclass
class Pipeline:
    """What turns images into class probabilities: network and structure in several views, then refinement.

    Attributes:
        model: The network, and the method that it is trained with.
        method: The method of the run, which gives `refine`.
        device: Where both are.
        views: At which scales, and whether mirrored, an image is seen; the probabilities are averaged.
    """

    model: StructuredNetwork
    method: Method
    device: torch.device
    views: tuple[View, ...] = (View(),)

    def unrefined(self, images: Tensor, kind: Refinable = "trained") -> Tensor:
        """The model's probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`, mean over views.

        Args:
            images: The images.
            kind: Those that the model's loss trains, or the softmax.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        size = images.shape[2:]
        first, *others = self.views
        total = first.back(self.model.probabilities(first.of(images), kind), size)
        for view in others:
            total = total + view.back(self.model.probabilities(view.of(images), kind), size)
        return total / len(self.views) if others else total

    def __call__(self, images: Tensor) -> Tensor:
        """The refined probabilities `[N, K, H, W]` of uint8 images `[N, 3, H, W]`.

        Raises:
            UserError: A method or the network cannot work with images of this size.
        """
        return refined(self.method, images, self.unrefined(images, self.method.refines))


@dataclass
class Predictor(Pipeline):
    """A pipeline whose network is trained.

    Attributes:
        facts: Where the trained model comes from.
    """

    facts: TrainedModelFacts = field(kw_only=True)

    @classmethod
    def of(cls, run: TrainedRun, device: torch.device) -> Predictor:
        """Loads the trained model of a run, which sees images as the run's evaluation does.

        Raises:
            UserError: The model is missing or damaged, or a method refuses an option.
        """
        training = run.training
        trained = TrainedModel.read(training.file, training)
        return cls.build(
            trained, training.model_options, training.entry, run.entry, device, views(run.evaluation)
        )

    @classmethod
    def build(
        cls,
        trained: TrainedModel,
        options: ModelOptions,
        trained_entry: MethodEntry,
        entry: MethodEntry,
        device: torch.device,
        views: tuple[View, ...] = (View(),),
    ) -> Predictor:
        """Puts together what a predictor needs.

        Args:
            trained: The trained model.
            options: The options of its network.
            trained_entry: The method that it was trained with.
            entry: The method of the run; the same, or one that reuses the model.
            device: Where to put all of it.
            views: At which scales, and whether mirrored, images are seen.

        Raises:
            UserError: A method refuses an option, or the weights do not fit the code.
        """
        network = Network(trained.model, trained.num_classes, dataclasses.replace(options, weights="none"))
        trained_method = trained_entry.build(trained.num_classes, network.feature_channels)
        _load(trained, network, trained_method)
        trained_method.progress = 1.0
        method = trained_method
        if entry.name != trained_entry.name:
            method = entry.build(trained.num_classes, network.feature_channels)
            method.progress = 1.0
        model = StructuredNetwork(network.to(memory_format=torch.channels_last), trained_method)
        return cls(
            model.to(device).eval(), method.to(device).eval(), device, tuple(views), facts=trained.facts
        )


def _load(trained: TrainedModel, network: Network, method: Method) -> None:
    """Gives a network and its method the weights of a trained model.

    Raises:
        UserError: They do not fit the code.
    """
    try:
        network.load_state_dict(trained.network)
        method.load_state_dict(trained.method_state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the trained model of {trained.model} with {trained.method}, seed {trained.seed}, does not fit "
            f"the code ({reason}): use the code of commit {trained.provenance.commit}, or train again"
        ) from error


def check_probabilities(probabilities: Tensor, name: str, method: Method) -> None:
    """Checks what was computed for one image: hooks look at the values of their first results alone.

    Args:
        probabilities: `[K, H, W]`.
        name: Of the image, for messages.
        method: The method that gave them last.

    Raises:
        Diverged: They are not finite.
        UserError: They do not sum to one over classes.
    """
    sums = probabilities.sum(dim=0, dtype=torch.promote_types(probabilities.dtype, torch.float32))
    low, high = torch.stack(sums.aminmax()).tolist()
    check_sums(low, high, probabilities.dtype, name, method)


def check_sums(low: float, high: float, dtype: torch.dtype, name: str, method: Method) -> None:
    """Checks the sums over classes of the probabilities of one image.

    Args:
        low: The lowest sum.
        high: The highest sum.
        dtype: The type of the probabilities.
        name: Of the image, for messages.
        method: The method that gave them last.

    Raises:
        Diverged: They are not finite.
        UserError: They are not one.
    """
    if not math.isfinite(low + high):
        raise Diverged(
            f"the probabilities of {name} are not finite: the model has diverged, or {place(type(method))} "
            "cannot work with this image"
        )
    tolerance = SUM_TOLERANCE * (10 if dtype.itemsize < 4 else 1)
    if max(1 - low, high - 1) > tolerance:
        raise UserError(
            f"the probabilities of {name} have sums over classes from {low:.4g} to {high:.4g}, not of one: "
            f"{place(type(method))} cannot work with this image"
        )


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable class of every pixel: `[N, K, H, W]` to uint8 `[N, H, W]`."""
    return probabilities.max(dim=1).indices.to(torch.uint8)  # on a CPU many times as fast as argmax
