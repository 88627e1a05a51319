"""Which pretrained weights are meant: a file, or a revision on the hub. PyTorch is not imported for it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from common.errors import UserError
from common.files import cache_folder, read_json, write_json
from common.provenance import packages


def find_weights(weights: str) -> Path:
    """The file of pretrained weights that the configuration names.

    Args:
        weights: A path, or a file name that is looked for in the folder STRUCTSEG_WEIGHTS.

    Raises:
        UserError: There is no such file.
    """
    path = _place(weights)
    if path is None:
        raise UserError(
            f"the weights file {weights!r} is not there: give its path in model_options, or its "
            "folder in the environment variable STRUCTSEG_WEIGHTS"
        )
    return path


def is_there(weights: str) -> bool:
    """Whether there is a file of pretrained weights that the configuration names."""
    return _place(weights) is not None


def _place(weights: str) -> Path | None:
    """The file, where it is; None if it is nowhere."""
    path = Path(weights).expanduser()
    folder = os.environ.get("STRUCTSEG_WEIGHTS")
    if not path.is_file() and folder:
        path = Path(folder).expanduser() / weights
    return path if path.is_file() else None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"the weights file {path} cannot be read: {error.strerror}") from None


def hub_revision(model: str) -> str:
    """What the ImageNet weights of a backbone are called on the hub, with their revision if it is pinned.

    It depends on the versions of two libraries that take seconds to be imported; so it is kept in the user's
    cache.

    Args:
        model: `<architecture>-<backbone>`.

    Raises:
        UserError: There is no such backbone.
    """
    backbone = model.partition("-")[2]
    versions = "-".join(packages().get(name, "none") for name in ("segmentation-models-pytorch", "timm"))
    known: dict[str, str] = {}
    with contextlib.suppress(RuntimeError, UserError, AttributeError):  # no home, or no file yet
        known = {**read_json(_cache(versions))}
    if backbone not in known:
        known[backbone] = _asked(backbone)
        with contextlib.suppress(RuntimeError, UserError, OSError):
            write_json(_cache(versions), known)
    return str(known[backbone])


def _cache(versions: str) -> Path:
    """Where revisions are kept."""
    return cache_folder() / f"weights-{versions}.json"


def _asked(backbone: str) -> str:
    """What the libraries say of a backbone."""
    from common.networks.network import encoder_name
    from common.networks.weights import revision

    return revision(encoder_name(backbone))
