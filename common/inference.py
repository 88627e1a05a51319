"""A trained model with a method's refinement: from images to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from common import config as configuration
from common import runs
from common.config import Config
from common.errors import UserError
from common.models import Network, upsample
from common.predictions import Predictions
from methods import Method


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
            size = [max(1, round(side * self.scale)) for side in (h, w)]
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


def views(settings: dict[str, Any]) -> tuple[View, ...]:
    """All views that the evaluation settings `scales` and `flip` ask for, the plain one last."""
    flips = (True, False) if settings["flip"] else (False,)
    found = [View(scale, flip) for scale in settings["scales"] for flip in flips]
    return tuple(sorted(found, key=lambda view: view == View()))


@dataclass
class Predictor:
    """What turns an image into class probabilities for one run.

    Attributes:
        network: The trained network, in evaluation mode.
        trained: The method that it was trained with: gives `structure` and `probabilities`.
        method: The method of the run: gives `refine`.
        options: The model's options.
        device: Where all of them are.
        provenance: How the trained model came to be.
        views: At which scales, and whether mirrored, an image is seen; the probabilities are averaged.
    """

    network: Network
    trained: Method
    method: Method
    options: dict[str, Any]
    device: torch.device
    provenance: dict[str, Any]
    views: tuple[View, ...] = (View(),)

    @classmethod
    def of(cls, config: Config, run: runs.Run, device: torch.device) -> Predictor:
        """Loads the trained model of a run.

        Raises:
            UserError: It is not there or cannot be read.
        """
        trained, entry = (
            configuration.method(config, name, run.dataset) for name in (run.training.method, run.method)
        )
        model = read_model(run.training.file)
        seen = views(configuration.settings(config, "evaluation", run.dataset, run.model))
        return cls.build(run.model, config["model_options"][run.model], model, trained, entry, device, seen)

    @classmethod
    def build(
        cls,
        name: str,
        options: dict[str, Any],
        model: dict[str, Any],
        trained_entry: configuration.MethodEntry,
        entry: configuration.MethodEntry,
        device: torch.device,
        seen: Sequence[View] = (View(),),
    ) -> Predictor:
        """Puts together what a predictor needs.

        Args:
            name: The name of the model.
            options: Its options.
            model: What `model.pt` holds.
            trained_entry: The method that it was trained with.
            entry: The method of the run; the same, or one that reuses the model.
            device: Where to put all of it.
            seen: At which scales, and whether mirrored, images are seen.
        """
        network = Network(name, model["num_classes"], options | {"weights": "none"})
        network.load_state_dict(model["network"])
        arguments = (model["num_classes"], network.feature_channels)
        trained = trained_entry.build(*arguments)
        trained.load_state_dict(model["method_state"])
        trained.progress = 1.0
        method = trained
        if entry.name != trained_entry.name:
            method = entry.build(*arguments)
            method.progress = 1.0
        network = network.to(device, memory_format=torch.channels_last).eval()
        kept = ("digest", "content_sha256", "weights_sha256", "wall_seconds", "peak_memory", "provenance")
        provenance = {key: model[key] for key in kept}
        parts = (trained.to(device).eval(), method.to(device).eval())
        return cls(network, *parts, options, device, provenance, tuple(seen))

    def unrefined(self, images: Tensor) -> Tensor:
        """The trained model's probabilities `[N, K, H, W]` of images `[N, 3, H, W]`, mean over views."""
        first, *others = self.views
        total = first.back(self._seen(first.of(images)), images.shape[2:])
        for view in others:
            total = total + view.back(self._seen(view.of(images)), images.shape[2:])
        return total / len(self.views) if others else total

    def _seen(self, images: Tensor) -> Tensor:
        padded = self.network.pad(images)
        output = self.network(padded)
        logits = self.trained.structure(padded, output.features, output.unary)
        size = (images.shape[2], images.shape[3])
        logits = upsample(logits, padded, size, self.options["align_corners"])
        return self.trained.probabilities(logits)

    def __call__(self, images: Tensor) -> Tensor:
        """The probabilities `[N, K, H, W]` of uint8 images `[N, 3, H, W]`, refined."""
        return refine(self.method, images, self.unrefined(images))


def read_model(path: Path) -> dict[str, Any]:
    """What a file `model.pt` holds, on the CPU.

    Raises:
        UserError: It is not there or cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the train stage first") from None
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): delete it and train again"
        ) from error


def refine(method: Method, images: Tensor, probabilities: Tensor) -> Tensor:
    """A method's refinement of probabilities.

    Raises:
        UserError: The method cannot work with such images.
    """
    try:
        return method.refine(images, probabilities)
    except ValueError as error:
        raise UserError(f"the method refuses its input: {error}") from error


def origin(config: Config, run: runs.Run, predictor: Predictor | Predictions) -> dict[str, Any]:
    """The part of a result file that says where the predictions come from; `common.finished` reads it."""
    if isinstance(predictor, Predictions):
        settings = configuration.settings(config, "evaluation", run.dataset, run.model)
        parts = configuration.dataset(config, run.dataset).parts(settings["split"])
        read = {"folder": predictor.folder, "sha256": predictor.content_sha256(parts)}
        return {"trained_as": None, "trained": None, "predictions": read}
    entry = configuration.method(config, run.method, run.dataset)
    return {
        "trained_as": run.training.method,
        "trained": predictor.provenance,
        "method_module": entry.module,
        "method_code": runs.code_digest(entry.module),
        "method_options": entry.options,
        "model_options": config["model_options"][run.model],
    }
