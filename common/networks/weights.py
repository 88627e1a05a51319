"""Files of pretrained weights, and the colours that a backbone was trained with."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from segmentation_models_pytorch.encoders import encoders, get_preprocessing_params
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


def revision(encoder: str) -> str:
    """What a backbone's ImageNet weights are called on the hub, with their revision if it is pinned.

    Args:
        encoder: Its name in segmentation-models-pytorch.
    """
    if encoder.startswith("tu-"):
        settings = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return f"{settings.hf_hub_id or settings.url}" if settings else "none"
    known = encoders[encoder].get("pretrained_settings", {}).get("imagenet")
    return f"{known.get('repo_id')}@{known.get('revision')}" if known else "none"


def state_sha256(module: nn.Module) -> str:
    """The SHA-256 of the names and values of all weights of a module."""
    result = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        result.update(f"{name} {value.dtype} {[*value.shape]}\n".encode())
        result.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return result.hexdigest()


def load_weights(encoder: nn.Module, path: Path, model: str) -> str:
    """Loads a backbone's state dict; a classification head in the file is left out.

    Args:
        encoder: The backbone.
        path: A file of `torch.save` or of safetensors.
        model: Name of the model, for messages.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: The file cannot be read, or is not of this backbone.
    """
    target: nn.Module = getattr(encoder, "model", encoder)
    try:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state = load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
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
    return hashlib.sha256(content).hexdigest()
