"""A network, trained or not, with a method's refinement: from images to probabilities."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from common.config.method_entry import MethodEntry
from common.config.settings import EvaluationSettings
from common.errors import Diverged, UserError
from common.labels import VOID
from common.networks.hooks import SUM_TOLERANCE, place
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import Refined, StructuredNetwork, refined
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
        others: Further networks, each with the method that it is trained with; theirs are averaged, too.
    """

    model: StructuredNetwork
    method: Method
    device: torch.device
    views: tuple[View, ...] = (View(),)
    others: tuple[StructuredNetwork, ...] = ()

    @property
    def models(self) -> tuple[StructuredNetwork, ...]:
        """All models, the first of which gives the diagnostics."""
        return (self.model, *self.others)

    def unrefined(self, images: Tensor, kind: Refinable = "trained") -> Tensor:
        """Probabilities `[N, K, H, W]` of RGB images in 0–255, `[N, 3, H, W]`, mean over models and views.

        Args:
            images: The images.
            kind: Those that the model's loss trains, or the softmax.

        Raises:
            UserError: The method or the network cannot work with images of this size.
        """
        size = images.shape[2:]
        (model, view), *others = itertools.product(self.models, self.views)
        total = view.back(model.probabilities(view.of(images), kind), size)
        for model, view in others:
            total = total + view.back(model.probabilities(view.of(images), kind), size)
        return total / (len(others) + 1) if others else total

    def __call__(self, images: Tensor) -> Refined:
        """What becomes of uint8 images `[N, 3, H, W]`.

        Raises:
            UserError: A method or the network cannot work with images of this size.
        """
        return refined(self.method, images, self.unrefined(images, self.method.refines))


@dataclass
class Predictor(Pipeline):
    """A pipeline whose network is trained.

    Attributes:
        facts: Where the trained model comes from.
        other_facts: Where the further models of an ensemble come from.
    """

    facts: TrainedModelFacts = field(kw_only=True)
    other_facts: tuple[TrainedModelFacts, ...] = field(default=(), kw_only=True)

    @classmethod
    def of(cls, run: TrainedRun, device: torch.device) -> Predictor:
        """Loads the trained models of a run, which see images as the run's evaluation does.

        Raises:
            UserError: A model is missing or damaged, or a method refuses an option.
        """
        training = run.training
        trained = [TrainedModel.read(member.file, member) for member in run.members]
        options, looks = training.model_options, views(run.evaluation)
        return cls.build(trained, options, training.entry, run.entry, device, looks)

    @classmethod
    def build(
        cls,
        trained: Sequence[TrainedModel],
        options: ModelOptions,
        trained_entry: MethodEntry,
        entry: MethodEntry,
        device: torch.device,
        views: tuple[View, ...] = (View(),),
    ) -> Predictor:
        """Puts together what a predictor needs.

        Args:
            trained: The trained model, or those of all members of an ensemble.
            options: The options of their networks.
            trained_entry: The method that they were trained with.
            entry: The method of the run; the same, or one that reuses the models.
            device: Where to put all of it.
            views: At which scales, and whether mirrored, images are seen.

        Raises:
            UserError: A method refuses an option, or the weights do not fit the code.
        """
        model, *others = (_restored(one, options, trained_entry, device) for one in trained)
        method = model.method
        if (entry.module, entry.options) != (trained_entry.module, trained_entry.options):
            method = entry.build(method.num_classes, model.network.feature_channels).to(device).eval()
            method.requires_grad_(False)
            method.progress = 1.0
        facts, *other_facts = (one.facts for one in trained)
        return cls(
            model, method, device, tuple(views), tuple(others), facts=facts, other_facts=tuple(other_facts)
        )


def _restored(
    trained: TrainedModel, options: ModelOptions, entry: MethodEntry, device: torch.device
) -> StructuredNetwork:
    """A trained model as it was at the end of its training, in evaluation mode; results have no gradients.

    Raises:
        UserError: The method refuses an option, or the weights do not fit the code.
    """
    network = Network(trained.model, trained.num_classes, dataclasses.replace(options, weights="none"))
    method = entry.build(trained.num_classes, network.feature_channels)
    _load(trained, network, method)
    method.progress = 1.0
    model = StructuredNetwork(network.to(memory_format=torch.channels_last), method)
    return model.to(device).eval().requires_grad_(False)


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


def check_result(result: Refined, name: str, method: Method) -> None:
    """Checks what was computed for one image: hooks look at the values of their first results alone.

    Args:
        result: Of that image, N = 1.
        name: Of the image, for messages.
        method: The method that gave it last.

    Raises:
        Diverged: Probabilities are not finite.
        UserError: They do not sum to one over classes, or a label is no class.
    """
    if result.decided is not None:
        check_decided(result.decided, name, method)
    probabilities = result.probabilities[0]
    sums = probabilities.sum(dim=0, dtype=torch.promote_types(probabilities.dtype, torch.float32))
    low, high = torch.stack(sums.aminmax()).tolist()
    check_sums(low, high, probabilities.dtype, name, method)


def check_decided(decided: Tensor, name: str, method: Method) -> None:
    """Checks the labels uint8 `[H, W]` that a method has decided for one image.

    Raises:
        UserError: One is no class.
    """
    if (decided == VOID).any():
        raise UserError(f"{place(type(method))}: refine returns labels of {name} that are no class")


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


def labels_of(result: Refined | Tensor) -> Tensor:
    """The labels uint8 `[N, H, W]`: those decided, or the most probable class of every pixel.

    Args:
        result: What has become of images, or probabilities `[N, K, H, W]`.
    """
    refinement = result if isinstance(result, Refined) else Refined(result)
    if refinement.decided is not None:
        return refinement.decided
    return refinement.probabilities.max(dim=1).indices.to(torch.uint8)  # on a CPU far faster than argmax
