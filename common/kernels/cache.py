"""Where compiled kernels are kept: one file per content of everything that they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from common.files import cache_folder, replacing
from common.installation import ROOT

SOURCES = ROOT / "cuda"


class CompilerError(Exception):
    """A compiler or a driver is missing or refuses a kernel; says why in one sentence."""


def compiled(name: str, suffix: str, made_from: Iterable[str], build: Callable[[], bytes]) -> Path:
    """The compiled file for these sources and settings; built if there is none yet.

    Several processes may ask at once: each writes a file of its own, which takes its place as a whole.

    Args:
        name: How the file's name begins.
        suffix: How it ends.
        made_from: Every text that the result depends on besides the sources in cuda/: flags, versions,
            the architecture.
        build: Gives the content.

    Returns:
        The path of the file.

    Raises:
        OSError: The cache cannot be written.
        Exception: Whatever `build` raises.
    """
    texts = [*made_from, *(f"{path.name}\n{path.read_text()}" for path in sorted(SOURCES.iterdir()))]
    code = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]
    path = cache_folder() / f"{name}-{code}{suffix}"
    if not path.exists():
        content = build()
        with replacing(path, "wb") as file:
            file.write(content)
    return path
