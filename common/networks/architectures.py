"""The architectures, and their settings, which stand in for the nulls of a model's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import UserError

SETTINGS: dict[str, dict[str, Any]] = {
    # Chen et al. 2017 (arXiv 1706.05587): ASPP; the details of both DeepLabs are those of
    # segmentation-models-pytorch
    "deeplabv3": {
        "output_stride": 16, "decoder_channels": 256, "dropout": 0.5, "separable": False,
        "output_convolution": True,
    },
    # Chen et al., ECCV 2018 (arXiv 1802.02611): ASPP, joined with a stage of stride 4
    "deeplabv3plus": {
        "output_stride": 16, "decoder_channels": 256, "dropout": 0.5, "separable": True,
        "output_convolution": True, "decoder_convolutions": 1, "decoder_dropout": 0,
    },
    # Zhao et al., CVPR 2017 (arXiv 1612.01105): pyramid pooling
    "pspnet": {"output_stride": 16, "decoder_channels": 512, "dropout": 0.1, "auxiliary_weight": 0.4},
    # Wang et al. 2019 (arXiv 1912.02937), "block 4": three convolutions
    "fcn": {"output_stride": 16, "decoder_channels": 256, "dropout": 0},
    # Xiao et al., ECCV 2018 (arXiv 1807.10221): pyramid pooling in a feature pyramid
    "upernet": {"output_stride": 32, "decoder_channels": 256, "dropout": 0.1},
    # Xie et al., NeurIPS 2021 (arXiv 2105.15203): a linear layer per stage
    "segformer": {"output_stride": 32, "decoder_channels": 256, "dropout": 0.1},
}  # fmt: skip

ATROUS = ("deeplabv3", "deeplabv3plus")
"""The architectures with an ASPP; their output stride is 8 or 16."""

UNPADDED = (*ATROUS, "pspnet", "fcn")
"""The architectures that take images of any size."""

_OWN = {
    "atrous_rates": ATROUS,
    "separable": ATROUS,
    "output_convolution": ATROUS,
    "decoder_convolutions": ("deeplabv3plus",),
    "decoder_dropout": ("deeplabv3plus",),
}
"""Options of some architectures only."""


def check_architecture(model: str) -> str:
    """The architecture of a model, `<architecture>-<backbone>`.

    Raises:
        UserError: There is no such.
    """
    architecture, _, backbone = model.partition("-")
    if architecture not in SETTINGS or not backbone:
        raise UserError(
            f"models: {model!r} must be <architecture>-<backbone> with one of the architectures "
            f"{', '.join(SETTINGS)}"
        )
    return architecture


def altered(model: str, options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settled options with some of them changed.

    What followed from the output stride follows from the new one: `atrous_rates` and `input_multiple`, if
    they are those that the architecture has at the old one.

    Args:
        model: `<architecture>-<backbone>`.
        options: All options, settled.
        changes: The options that are changed, and their values.

    Raises:
        UserError: As `settled` does.
    """
    stride = changes.get("output_stride", options["output_stride"])
    if stride == options["output_stride"]:
        return settled(model, {**options, **changes})
    following = dict.fromkeys(("atrous_rates", "input_multiple"))
    before = settled(model, {**options, **following})
    kept = {
        key: None if key in following and value == before[key] else value for key, value in options.items()
    }
    return settled(model, {**kept, **changes})


def settled(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options with the settings of its architecture in place of nulls.

    Args:
        model: `<architecture>-<backbone>`.
        options: All options, with nulls.

    Raises:
        UserError: An option is of no use to the architecture, or there is no such.
    """
    architecture = check_architecture(model)
    defaults: dict[str, Any] = {"auxiliary_weight": 0} | SETTINGS[architecture]
    if architecture in ATROUS:
        stride = options["output_stride"] or defaults["output_stride"]
        if stride == 32:
            raise UserError(
                f"model_options.{model}.output_stride: 32 is too coarse for {architecture}: give 8 or 16"
            )
        defaults["atrous_rates"] = [rate * 16 // stride for rate in (6, 12, 18)]
    for option, owners in _OWN.items():
        if options[option] is not None and architecture not in owners:
            raise UserError(
                f"model_options.{model}.{option}: only {' and '.join(owners)} can have it: leave it out"
            )
    defaults["input_multiple"] = options["output_stride"] or defaults["output_stride"]
    complete: dict[str, Any] = {
        key: defaults.get(key) if value is None else value for key, value in options.items()
    }
    multiple, stride = complete["input_multiple"], complete["output_stride"]
    if multiple % stride and not (multiple == 1 and architecture in UNPADDED):
        alternative = ", or 1" if architecture in UNPADDED else ""
        raise UserError(
            f"model_options.{model}.input_multiple: {multiple} must be a multiple of the output stride, "
            f"{stride}{alternative}"
        )
    return complete
