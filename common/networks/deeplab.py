"""The decoders of DeepLabv3 and DeepLabv3+, in the forms that libraries and publications give them.

Their ASPP is that of segmentation-models-pytorch. What follows it differs from publication to publication:
a 3×3 convolution or none, one or two convolutions where DeepLabv3+ joins two stages, dropout in one place or
two.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, SeparableConv2d
from torch import Tensor, nn
from torch.nn import functional

from common.networks.options import ModelOptions

FINE, FINE_CHANNELS = 2, 48
"""The place of the stage of stride 4 among an encoder's maps, and to how many channels it is reduced."""


def _convolution(in_channels: int, channels: int, separable: bool | None) -> nn.Sequential:
    """A 3×3 convolution with BatchNorm and ReLU, of one part or of a depthwise and a pointwise one."""
    kind = SeparableConv2d if separable else nn.Conv2d
    convolution = kind(in_channels, channels, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def _pyramid(in_channels: int, options: ModelOptions) -> nn.Sequential:
    """The ASPP with its dropout and the convolution behind it, if there is one."""
    channels = options.decoder_channels
    aspp = ASPP(in_channels, channels, options.atrous_rates, options.separable, options.dropout)
    behind = [_convolution(channels, channels, options.separable)] if options.output_convolution else []
    return nn.Sequential(aspp, *behind)


class DeepLabV3(nn.Module):
    """ASPP on the last stage (Chen et al. 2017, arXiv 1706.05587)."""

    def __init__(self, in_channels: int, options: ModelOptions) -> None:
        """
        Args:
            in_channels: Channels of the backbone's last stage.
            options: The model's options.
        """
        super().__init__()
        self.aspp = _pyramid(in_channels, options)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features `[N, C, h, w]` from the maps of the backbone's stages."""
        return self.aspp(maps[-1])


class DeepLabV3Plus(nn.Module):
    """ASPP on the last stage, joined with a stage of stride 4 (Chen et al. 2018, arXiv 1802.02611)."""

    def __init__(self, in_channels: list[int], options: ModelOptions) -> None:
        """
        Args:
            in_channels: Channels of the encoder's maps, image first.
            options: The model's options.
        """
        super().__init__()
        channels = options.decoder_channels
        self.aspp = _pyramid(in_channels[-1], options)
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels[FINE], FINE_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(FINE_CHANNELS),
            nn.ReLU(),
        )
        inputs = [FINE_CHANNELS + channels] + [channels] * ((options.decoder_convolutions or 1) - 1)
        self.joined = nn.Sequential(
            *(_convolution(count, channels, options.separable) for count in inputs),
            nn.Dropout(options.decoder_dropout or 0.0),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features `[N, C, h, w]` of stride 4 from the maps of the backbone's stages."""
        fine = self.fine(maps[FINE])
        coarse = self.aspp(maps[-1])
        coarse = functional.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=True)
        return self.joined(torch.cat([coarse, fine], dim=1))
