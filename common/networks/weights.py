"""Files of pretrained weights, and the colours that a backbone was trained with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from segmentation_models_pytorch.encoders import get_preprocessing_params
from torch import nn

from common.errors import UserError

IMAGENET: Mapping[str, Sequence[float]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def backbone_colours(encoder: str, weights: str) -> Mapping[str, Sequence[float]]:
    """The `mean` and `std` of the colours (0–1) that a backbone was trained with.

    Args:
        encoder: Its name in segmentation-models-pytorch.
        weights: The option of the model.
    """
    if encoder.startswith("tu-"):
        settings = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return {"mean": settings.mean, "std": settings.std} if settings else IMAGENET
    if weights == "imagenet":
        return get_preprocessing_params(encoder, "imagenet")  # lies beside the weights, on the hub
    return IMAGENET


def find_weights(weights: str) -> Path:
    """The file of pretrained weights that the configuration names.

    Args:
        weights: A path, or a file name that is looked for in the folder STRUCTSEG_WEIGHTS.

    Raises:
        UserError: There is no such file.
    """
    path = Path(weights).expanduser()
    folder = os.environ.get("STRUCTSEG_WEIGHTS")
    if not path.is_file() and folder:
        path = Path(folder).expanduser() / weights
    if not path.is_file():
        raise UserError(
            f"the weights file {weights!r} is not there: give its path in model_options, or its "
            "folder in the environment variable STRUCTSEG_WEIGHTS"
        )
    return path


def weights_digest(weights: str) -> str | None:
    """SHA-256 of the file that the option `weights` names; None if it names none."""
    if weights in ("imagenet", "none"):
        return None
    return hashlib.sha256(find_weights(weights).read_bytes()).hexdigest()


def load_weights(encoder: nn.Module, path: Path, model: str) -> None:
    """Loads a backbone's state dict; a classification head in the file is left out.

    Args:
        encoder: The backbone.
        path: A file of `torch.save` or of safetensors.
        model: Name of the model, for messages.

    Raises:
        UserError: The file cannot be read, or is not of this backbone.
    """
    target: nn.Module = getattr(encoder, "model", encoder)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        state = {key: value.float() for key, value in state.items() if torch.is_tensor(value)}
        missing = target.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # every format has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model_options.{model}.weights: {path} does not fit: {reason}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"model_options.{model}.weights: {path} is not of this backbone: it lacks "
            f"{len(missing)} of its tensors, {missing[0]} among them"
        )
