"""Networks: `<architecture>-<backbone>` from segmentation-models-pytorch and timm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import timm
import torch
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn import functional

from common import compiler
from common.errors import Unreachable, UserError
from common.kernels.grids import Alignment, enlarged
from common.networks import decoders
from common.networks.architectures import check_architecture
from common.networks.options import ModelOptions
from common.networks.weight_files import find_weights
from common.networks.weights import backbone_colours, load_weights, state_sha256


def check_name(model: str) -> None:
    """Checks that `<architecture>-<backbone>` exists.

    Raises:
        UserError: It does not; the sentence names the choices.
    """
    check_architecture(model)
    encoder_name(model.partition("-")[2])


def encoder_name(backbone: str) -> str:
    """The name under which segmentation-models-pytorch builds the backbone.

    Raises:
        UserError: Neither it nor timm knows the backbone; the sentence names similar ones.
    """
    if backbone in smp_encoders or backbone.startswith("tu-"):
        plain = backbone.removeprefix("tu-")
        if plain == backbone or timm.is_model(plain):
            return backbone
    elif timm.is_model(backbone):
        return f"tu-{backbone}"
    plain = backbone.removeprefix("tu-").replace("-", "_")
    similar = (timm.list_models(f"*{plain}*") or timm.list_models(f"*{plain[:6]}*"))[:5]
    hint = f"; similar ones: {', '.join(similar)}" if similar else ""
    raise UserError(
        f"models: the backbone {backbone!r} is known neither to segmentation-models-pytorch nor to "
        f"timm (timm.list_models() lists its names){hint}"
    )


class Output(NamedTuple):
    """What a network returns.

    Attributes:
        features: What the classifier sees, `[N, C, h, w]`.
        unary: The classifier's scores, `[N, K, h, w]`.
        auxiliary: The auxiliary classifier's scores on an earlier stage, in training if there is one.
    """

    features: Tensor
    unary: Tensor
    auxiliary: Tensor | None


class Network(nn.Module):
    """Encoder, decoder and classifier, taken apart so that structure can act between them.

    Attributes:
        mean: Mean colour that images are normalised by, in 0–255, `[1, 3, 1, 1]`.
        std: Standard deviation that images are normalised by, in 0–255, `[1, 3, 1, 1]`.
        encoder: The backbone: images to one map per stage.
        decoder: The stages' maps to features.
        classifier: The last 1×1 convolution, features to unary.
        auxiliary: The auxiliary classifier on an earlier stage of the encoder, or None.
        auxiliary_weight: What its loss is multiplied by; 0 if there is none.
        feature_channels: The channels of the features.
        input_multiple: What the sides of images are padded to a multiple of.
        align_corners: Whether logits are upsampled with the corner cells on the corner pixels.
        frozen: The parts whose BatchNorm keeps its statistics in training.
        weights_sha256: Of the file of the encoder's first weights, or of those that came from the hub; None
            if it has drawn them.
    """

    mean: Tensor
    std: Tensor
    encoder: nn.Module

    def __init__(self, model: str, num_classes: int, options: ModelOptions) -> None:
        """
        Args:
            model: `<architecture>-<backbone>`.
            num_classes: K.
            options: The model's options.

        Raises:
            UserError: The backbone cannot be built or its weights cannot be had.
        """
        super().__init__()
        check_name(model)
        architecture, _, backbone = model.partition("-")
        name = encoder_name(backbone)
        encoder, self.weights_sha256 = _encoder(model, name, options)
        channels = list(encoder.out_channels)
        self.encoder = encoder
        self.feature_channels: int = options.decoder_channels
        self.decoder = decoders.build(architecture, channels, options)
        self.classifier = decoders.classifier(architecture, self.feature_channels, num_classes, options)
        self.auxiliary_weight = options.auxiliary_weight
        self.auxiliary = decoders.auxiliary(channels[-2], num_classes, options)
        self.input_multiple = options.input_multiple
        self.align_corners = options.align_corners
        self.frozen = _frozen(options.freeze_batchnorm)
        _set_momentum(self.encoder, options.batchnorm_momentum)
        for part in (self.decoder, self.auxiliary):
            _set_momentum(part, options.head_batchnorm_momentum)
        colours = backbone_colours(name, options.weights)
        # "dataset": the state of a trained network has the colours, and replaces the backbone's
        for key, value in (("mean", options.mean), ("std", options.std)):
            of_backbone = value in (None, "dataset")
            colour = torch.tensor(colours[key] if of_backbone else value)
            self.register_buffer(key, 255 * colour.view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> Network:
        """Switches training mode; frozen BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            for layer in _batchnorms(getattr(self, part)):
                layer.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Runs the network.

        Args:
            images: RGB in 0–255, `[N, 3, H, W]` with sides that `pad` has made fit.

        Raises:
            UserError: The backbone cannot take this size.
        """
        try:
            maps = self.encoder((images - self.mean) / self.std)
        except AssertionError as error:  # so do backbones in timm that need windows of some size
            raise UserError(
                f"the backbone refuses an input of {images.shape[2]}×{images.shape[3]} ({error}): give it as "
                "model_options.<model>.input_multiple what the sides are to be padded to a multiple of"
            ) from error
        auxiliary = self.auxiliary(maps[-2]) if self.auxiliary and self.training else None
        features = self.decoder(list(maps))
        return Output(features, self.classifier(features), auxiliary)

    @property
    def alignment(self) -> Alignment:
        """How the cells of the output grid lie on the pixels of the input that `pad` gives."""
        if not self.align_corners:
            return "middles"
        return "stretched" if self.input_multiple == 1 else "corners"

    def pad(self, images: Tensor) -> Tensor:
        """Makes the sides multiples of what the network needs, in its mean colour, float32.

        With `align_corners` the last cell's centre must not lie inside the image: there may be one cell more.
        A network that needs multiples of 1 gets the image as it is.
        """
        multiple = self.input_multiple
        beyond = multiple - 1 if self.align_corners else 0
        below, right = (beyond + -(side + beyond) % multiple for side in images.shape[2:])
        images = images.float()
        if torch.compiler.is_exporting() or below or right:  # an exported program is one for all sizes
            images = functional.pad(images - self.mean, (0, right, 0, below)) + self.mean
        return images.contiguous(memory_format=torch.channels_last)


def _batchnorms(part: nn.Module | None) -> list[nn.modules.batchnorm._BatchNorm]:
    """All BatchNorm layers of a part, those that timm joins with an activation and synchronised ones too."""
    return [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if part else []


def _set_momentum(part: nn.Module | None, momentum: float | None) -> None:
    """Sets the momentum of all BatchNorm layers of a part; None leaves the library's own."""
    if momentum is not None:
        for layer in _batchnorms(part):
            layer.momentum = momentum


def _frozen(option: bool | str) -> tuple[str, ...]:
    """The parts of a network whose BatchNorm the option `freeze_batchnorm` freezes."""
    if option == "backbone":
        return ("encoder",)
    return ("encoder", "decoder", "auxiliary") if option else ()


def upsample(logits: Tensor, padded: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Logits of the output grid, bilinearly at the image's resolution, cut to the image.

    The result does not depend on how far the image was padded. With `align_corners`, cells lie at the pixels
    that are multiples of the grid's stride, as in crops of 513 pixels at stride 16; without, in the middle of
    their pixels. The grid of an image that was not padded is stretched over it, from edge to edge.

    Args:
        logits: `[N, K, h, w]`.
        padded: The network's input, `[N, 3, H', W']`.
        size: The size H, W of the image before `Network.pad`.
        align_corners: Whether the corner cells' centres fall on the corner pixels' centres.

    Returns:
        `[N, K, H, W]`.
    """
    alignment: Alignment = "middles"
    if align_corners:  # not stretched, the last cell's centre would lie inside an image that was not padded
        alignment = "stretched" if (padded.shape[2], padded.shape[3]) == size else "corners"
    full = enlarged(logits, padded.shape[2:], alignment)
    if torch.compiler.is_exporting():  # strides of a part would tell padded images from others
        for dimension, side in enumerate(size, 2):
            full = full.index_select(dimension, torch.arange(side, device=full.device))
        return full
    return full[..., : size[0], : size[1]]


@compiler.put_off()
def _encoder(model: str, name: str, options: ModelOptions) -> tuple[Any, str | None]:
    """The backbone at the wanted output stride, with its weights: a module that has `out_channels`.

    Returns:
        It, and the SHA-256 of the file of its weights, or of the weights that came from the hub.
    """
    weights, stride = options.weights, options.output_stride
    pretrained: bool | str | None = None
    if weights == "imagenet":
        pretrained = True if name.startswith("tu-") else weights
    sizes = {"strict_img_size": False} if name.startswith("tu-swin") else {}  # they take any size, if asked
    try:
        encoder = get_encoder(name, depth=5, weights=pretrained, output_stride=stride, **sizes)
    except (OSError, RuntimeError) as error:
        if not pretrained or isinstance(error, torch.OutOfMemoryError):
            raise
        raise Unreachable(
            f"model_options.{model}.weights: the ImageNet weights are not cached and cannot be "
            "downloaded: go online once, or set weights to none or to the path of a file"
        ) from error
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"models: {model} cannot be built with output_stride {stride} and these weights"
            + (f": {reason}" if reason else ": choose another backbone")
        ) from error
    sha256 = state_sha256(encoder) if pretrained else None
    if weights not in ("imagenet", "none"):
        sha256 = load_weights(encoder, find_weights(weights), model)
    _dilate(encoder, options.dilation, model)
    return encoder, sha256


def _dilate(encoder: nn.Module, dilation: bool | str, model: str) -> None:
    """Takes back the dilation that an output stride below 32 has brought, where the option says so.

    With `first`, only the first blocks of the dilated stages keep it. The stride stays.

    Raises:
        UserError: The backbone has no stages of blocks as ResNets have them.
    """
    if dilation is True:
        return
    stages = [stage for name, stage in encoder.named_modules() if re.search(r"(^|\.)layer\d$", name)]
    if dilation == "first" and not stages:
        raise UserError(f"model_options.{model}.dilation: first is for ResNets: give true or false")
    rates = [max(layer.dilation[0] for layer in _convolutions(stage)) for stage in stages]
    _set_dilation(encoder, 1)
    if dilation == "first":
        for stage, rate in zip(stages, rates):
            _set_dilation(next(stage.children()), rate)


def _convolutions(part: nn.Module) -> Iterator[nn.Conv2d]:
    """All convolutions of a part."""
    return (layer for layer in part.modules() if isinstance(layer, nn.Conv2d))


def _set_dilation(part: nn.Module, rate: int) -> None:
    """Sets the dilation of all convolutions of a part, and their padding with it."""
    for layer in _convolutions(part):
        if layer.kernel_size == (1, 1):
            layer.dilation = (1, 1)
        elif not isinstance(layer.padding, str):
            layer.padding = tuple(p // d * rate for p, d in zip(layer.padding, layer.dilation))
            layer.dilation = (rate, rate)
