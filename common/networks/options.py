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
        input_multiple: What the sides of images are padded to a multiple of.
        dilation: Whether stages that lose their stride are dilated instead.
        atrous_rates: Dilations of the ASPP.
        decoder_channels: Channels of the features in front of the classifier.
        dropout: In the ASPP, or in front of the classifier.
        separable: Whether the ASPP has depthwise separable convolutions.
        align_corners: How the logits are upsampled.
        classifier_std: Standard deviation of the classifier's first weights; None is the library's own.
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
    dilation: bool
    atrous_rates: tuple[int, int, int] | None
    decoder_channels: int
    dropout: float
    separable: bool | None
    align_corners: bool
    classifier_std: float | None
    freeze_batchnorm: bool | Literal["backbone"]
    batchnorm_momentum: float | None
    head_batchnorm_momentum: float | None
    auxiliary_weight: float
    mean: Literal["dataset"] | tuple[float, float, float] | None
    std: Literal["dataset"] | tuple[float, float, float] | None
