"""From the maps of a backbone's stages to the features in front of the classifier.

Every decoder takes the list of the encoder's maps, image first and coarsest last.
`common.networks.architectures` has checked its options.
"""

from __future__ import annotations

from collections.abc import Callable

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from common.networks.architectures import ATROUS
from common.networks.deeplab import DeepLabV3, DeepLabV3Plus
from common.networks.options import ModelOptions


class PyramidPooling(nn.Module):
    """PSPNet's head: averages of 1×1, 2×2, 3×3 and 6×6 regions beside the map, then a 3×3 convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """
        Args:
            in_channels: Channels of the backbone's last stage.
            channels: Channels of the features.
        """
        super().__init__()
        self.pyramid = PSPModule(in_channels, sizes=(1, 2, 3, 6))
        # the library leaves out the BatchNorm of the whole map's average, which the published network has
        self.pyramid.blocks[0].pool[1] = Conv2dReLU(in_channels, in_channels // 4, 1, use_norm="batchnorm")
        self.bottleneck = Conv2dReLU(2 * in_channels, channels, 3, padding=1, use_norm="batchnorm")

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features `[N, C, h, w]` from the maps of the backbone's stages."""
        return self.bottleneck(self.pyramid(maps[-1]))


class Convolutions(nn.Sequential):
    """The "block 4" head of the DD-CRF paper: 1×1 to fewer channels and two 3×3, with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """
        Args:
            in_channels: Channels of the backbone's last stage.
            channels: Channels of the features.
        """
        super().__init__(
            Conv2dReLU(in_channels, channels, 1, use_norm="batchnorm"),
            *(Conv2dReLU(channels, channels, 3, padding=1, use_norm="batchnorm") for _ in range(2)),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features `[N, C, h, w]` from the maps of the backbone's stages."""
        return super().forward(maps[-1])


def _deeplabv3(channels: list[int], options: ModelOptions) -> nn.Module:
    """The ASPP of DeepLabv3."""
    return DeepLabV3(channels[-1], options)


def _before_dropout(decoder: nn.Module, options: ModelOptions) -> nn.Module:
    """A decoder with the dropout in front of the classifier."""
    return nn.Sequential(decoder, nn.Dropout2d(options.dropout))


def _pspnet(channels: list[int], options: ModelOptions) -> nn.Module:
    """The pyramid pooling of PSPNet."""
    return _before_dropout(PyramidPooling(channels[-1], options.decoder_channels), options)


def _fcn(channels: list[int], options: ModelOptions) -> nn.Module:
    """Three convolutions."""
    return _before_dropout(Convolutions(channels[-1], options.decoder_channels), options)


def _upernet(channels: list[int], options: ModelOptions) -> nn.Module:
    """The feature pyramid of UPerNet."""
    return _before_dropout(UPerNetDecoder(channels, decoder_channels=options.decoder_channels), options)


def _segformer(channels: list[int], options: ModelOptions) -> nn.Module:
    """The linear layers of SegFormer."""
    decoder = SegformerDecoder(channels, segmentation_channels=options.decoder_channels)
    return _before_dropout(decoder, options)


_DECODERS: dict[str, Callable[[list[int], ModelOptions], nn.Module]] = {
    "deeplabv3": _deeplabv3,
    "deeplabv3plus": DeepLabV3Plus,
    "pspnet": _pspnet,
    "fcn": _fcn,
    "upernet": _upernet,
    "segformer": _segformer,
}


def build(architecture: str, channels: list[int], options: ModelOptions) -> nn.Module:
    """An architecture's decoder with its first weights.

    Args:
        architecture: One of `common.networks.architectures.SETTINGS`.
        channels: Channels of the encoder's maps, image first.
        options: The model's options.
    """
    decoder = _DECODERS[architecture](list(channels), options)
    # the library leaves those with an ASPP as PyTorch makes them
    _initialise(decoder, options, None if architecture in ATROUS else initialize_decoder)
    return decoder


def classifier(architecture: str, channels: int, num_classes: int, options: ModelOptions) -> nn.Conv2d:
    """An architecture's last layer, features to class scores, with its first weights.

    Args:
        architecture: One of `common.networks.architectures.SETTINGS`.
        channels: Channels of the features.
        num_classes: K.
        options: The model's options.
    """
    layer = nn.Conv2d(channels, num_classes, 1)
    _initialise(layer, options, None if architecture in ATROUS else initialize_head)
    if options.classifier_std is not None:
        nn.init.normal_(layer.weight, std=options.classifier_std)
        _clear_bias(layer)
    return layer


def auxiliary(in_channels: int, num_classes: int, options: ModelOptions) -> Auxiliary | None:
    """The auxiliary classifier with its first weights; None if its loss has no weight.

    Args:
        in_channels: Channels of the stage that it sees.
        num_classes: K.
        options: The model's options.
    """
    if not options.auxiliary_weight:
        return None
    part = Auxiliary(in_channels, num_classes)
    _initialise(part, options, None)
    return part


class Auxiliary(nn.Sequential):
    """PSPNet's auxiliary classifier: a 3×3 convolution to a quarter of the channels, dropout, a 1×1 one."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """
        Args:
            in_channels: Channels of the stage that it sees.
            num_classes: K.
        """
        channels = max(1, in_channels // 4)
        convolution = Conv2dReLU(in_channels, channels, 3, padding=1, use_norm="batchnorm")
        scores = nn.Conv2d(channels, num_classes, 1)
        super().__init__(convolution, nn.Dropout2d(0.1), scores)
        _clear_bias(scores)


def _initialise(part: nn.Module, options: ModelOptions, library: Callable[[nn.Module], None] | None) -> None:
    """Gives a part the first weights that the options say; None of `library` leaves PyTorch's own.

    `he` is He et al. 2015 (arXiv 1502.01852): N(0, 2 / inputs of a neuron) and no bias.
    """
    if options.initialisation is None and library is not None:
        library(part)
    if options.initialisation == "he":
        for layer in part.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                _clear_bias(layer)


def _clear_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Sets the bias of a layer to zero, if it has one."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
