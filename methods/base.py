"""What a method is: three places where structure can act, each plain cross-entropy by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.grids import Alignment, enlarged
from common.labels import VOID, valid_pixels

Refinable = Literal["trained", "softmax"]
"""Class probabilities that may be refined: those that the loss trains, or the softmax of the logits."""

Grid = int | Literal["full"]
"""How many times finer than the network's output grid logits are; or they are of the size of its input."""


@dataclass(frozen=True)
class Setting:
    """Where a method would be run.

    Attributes:
        dataset: Name of the dataset in the configuration.
        num_classes: K.
        model: Name of the model, `<architecture>-<backbone>`.
        output_stride: Of the model's backbone.
        options: The options of the method, defaults included.
    """

    dataset: str
    num_classes: int
    model: str
    output_stride: int
    options: dict[str, Any]


class Method(nn.Module):
    """One structured-output method. Override only what makes the method different.

    A subclass's options are the keyword arguments of its `__init__`; a ValueError that it raises for
    an impossible value is shown to the user as one sentence before anything runs.

    Attributes:
        trained_as: The config entry whose trained model this method reuses, if it trains none.
        refines: What `refine` is given: `trained` are the `probabilities` of the method that was trained,
            `softmax` is the softmax of its logits; both are means over views.
        grid: Where `structure` gives logits. An option of this name goes before it.
        progress: The share of training done, in [0, 1]; kept current by the training loop.
        alignment: How the cells of the output grid lie on the network's input; set by the stage.
    """

    trained_as: str | None = None
    refines: Refinable = "trained"
    grid: Grid = 1
    progress: float = 0.0
    alignment: Alignment = "middles"

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        """
        Args:
            num_classes: K, the number of classes without void.
            feature_channels: C, the channels of the features in front of the classifier.
        """
        super().__init__()
        self.num_classes = num_classes
        self.feature_channels = feature_channels

    @classmethod
    def skip(cls, setting: Setting) -> str | None:
        """Why the method is not run on a dataset with a model, in some words; None if it is.

        It is asked before anything runs, and its answer is remembered with the method's code.
        """
        return None

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        """Inside the network: turns its own scores into structured ones.

        Args:
            images: RGB in 0–255 at the network's input size, float `[N, 3, H, W]`.
            features: What the classifier sees, `[N, C, h, w]`.
            unary: The classifier's scores, `[N, K, h, w]`.

        Returns:
            Logits on the grid that `grid` declares: `[N, K, grid·h, grid·w]`, or `[N, K, H, W]`.
        """
        return unary

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In the loss. A parameter of one of these names more, and it gets that, too; nothing else is passed.

        `images`: RGB in 0–255 as the labels show them, float `[N, 3, H, W]`. `features`: what the classifier
        sees, `[N, C, h, w]`. `unary`: the classifier's scores, `[N, K, h, w]`. `prepared`: what `prepare` has
        made of the labels, `[N, …]`.

        Args:
            logits: Upsampled to full size, `[N, K, H, W]`.
            labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

        Returns:
            A scalar to minimise.
        """
        return cross_entropy(logits, labels)

    def prepare(self, labels: Tensor) -> Tensor:
        """Prepares what a loss needs of the labels of one image, in the processes that load images.

        It is called if a method defines it, on a copy of the method that stays as it was at the start of
        training, on the CPU. NumPy and SciPy may be used.

        Args:
            labels: Those that the loss gets, after augmentation: uint8 `[H, W]` in 0..K−1, or 255 for void.

        Returns:
            A tensor whose shape and type are those of all images of the same size, on the CPU.
        """
        raise NotImplementedError

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """After the network: improves the class probabilities with the image.

        Args:
            images: The original images, uint8 `[N, 3, H, W]`.
            probabilities: `[N, K, H, W]`, summing to one over K; of the kind that `refines` names.

        Returns:
            Refined probabilities, `[N, K, H, W]`; or labels, integers `[N, H, W]` in 0..K−1, of a rule that
            decides: calibration is then that of the probabilities that it gets.
        """
        return probabilities

    def auxiliary_loss(self, logits: Tensor, labels: Tensor, **seen: Tensor) -> Tensor:
        """The loss of a model's auxiliary classifier: the method's own; shapes as in `loss`.

        Args:
            logits: Those of the auxiliary classifier.
            labels: As in `loss`.
            seen: What `loss` asks for; a method's own has parameters for what it asks for, as in `loss`.
        """
        return self.loss(logits, labels, **seen)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The class probabilities that the loss trains; calibration is theirs, views are averaged in them.

        Args:
            logits: `[N, K, H, W]`.

        Returns:
            `[N, K, H, W]`, summing to one over K and in the order of the logits.
        """
        return logits.softmax(dim=1)

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the latest `structure` or `loss`, to be logged and averaged.

        TensorBoard shows one that is called `<name>_class_<k>` as `<name>/` and the name of class k.
        """
        return {}

    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        """For `structure` at full size: what the stage's bilinear upsampling makes of logits.

        Args:
            logits: On the output grid, `[N, K, h, w]`.
            images: As in `structure`, `[N, 3, H, W]`.

        Returns:
            `[N, K, H, W]`; beyond the last cell its values are repeated.
        """
        full = enlarged(logits, images.shape[2:], self.alignment)
        below, right = (side - covered for side, covered in zip(images.shape[2:], full.shape[2:]))
        return functional.pad(full, (0, right, 0, below), mode="replicate") if below or right else full


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not void; zero, with a gradient, if all are.

    Args:
        logits: `[N, K, H, W]`.
        labels: Integers `[N, H, W]` in 0..K−1, or 255 for void.

    Returns:
        A scalar in at least float32.

    Raises:
        ValueError: A label is neither a class nor void (on a GPU the program ends, later).
    """
    valid = valid_pixels(labels, logits.shape[1])
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = functional.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="sum")
    return total / valid.sum().clamp(min=1)
