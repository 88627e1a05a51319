"""The options of a model, as the schema describes them, with the architecture's own in place of nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelOptions:
    """How a network is built; an option that its architecture has no use for is None.

    Attributes:
        weights: `imagenet`, `none`, or a file of the backbone's weights.
        output_stride: Pixels per cell of the encoder's last feature map.
        input_multiple: What the sides of images are padded to a multiple of; 1 pads nothing, and stretches
            the logits over the image.
        dilation: Whether stages that lose their stride are dilated instead, all blocks of them or the first.
        atrous_rates: Dilations of the ASPP.
        output_convolution: Whether a 3×3 convolution follows the ASPP.
        decoder_convolutions: 3×3 convolutions of DeepLabv3+ on the joined maps.
        decoder_channels: Channels of the features in front of the classifier.
        dropout: In the ASPP, or in front of the classifier.
        decoder_dropout: Of DeepLabv3+ in front of the classifier.
        separable: Whether the 3×3 convolutions of ASPP and decoder are depthwise separable.
        align_corners: How the logits are upsampled.
        initialisation: First weights of decoder and classifiers; None is the library's own.
        classifier_std: Standard deviation of the classifier's first weights; None leaves them as they are.
        freeze_batchnorm: Where BatchNorm keeps the statistics that it was loaded with.
        batchnorm_momentum: Share of a new batch in the backbone's running statistics; None is the library's.
        head_batchnorm_momentum: Share of a new batch in the decoder's; None is the library's.
        auxiliary_weight: Weight of the loss of the auxiliary classifier; 0 is none.
        mean: Mean colour in 0–1; None is the backbone's.
        std: Standard deviation of the colours in 0–1; None is the backbone's.
    """

    weights: str
    output_stride: int
    input_multiple: int
    dilation: bool | Literal["first"]
    atrous_rates: tuple[int, int, int] | None
    output_convolution: bool | None
    decoder_convolutions: int | None
    decoder_channels: int
    dropout: float
    decoder_dropout: float | None
    separable: bool | None
    align_corners: bool
    initialisation: Literal["he", "pytorch"] | None
    classifier_std: float | None
    freeze_batchnorm: bool | Literal["backbone"]
    batchnorm_momentum: float | None
    head_batchnorm_momentum: float | None
    auxiliary_weight: float
    mean: Literal["dataset"] | tuple[float, float, float] | None
    std: Literal["dataset"] | tuple[float, float, float] | None
