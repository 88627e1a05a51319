"""Own data in a folder, prepared by the command that a user calls."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from common.__main__ import main
from common.datasets.manifest import Manifest
from tests.common.datasets import layouts
from tests.conftest import TINY

CLASSES = ["road", "car", "sky"]
SPLITS = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def stripes(*values: int) -> NDArray[np.uint8]:
    """A label map with as much of every value."""
    return np.resize(np.array(values, np.uint8), layouts.SIZE)


def write(root: Path, *values: int, palette: list[int] | None = None) -> Path:
    """Four images in three splits, whose label maps have all of some values."""
    for split, stems in SPLITS.items():
        layouts.lines(root / f"{split}.txt", stems)
        for stem in stems:
            layouts.picture(root / "images" / f"{stem}.png")
            label(root / "labels" / f"{stem}.png", *(values or (0, 1, 2)), palette=palette)
    return root


def label(path: Path, *values: int, palette: list[int] | None = None) -> None:
    """A label map with as much of every value, and a palette if there is one."""
    picture = Image.fromarray(stripes(*values))
    if palette:
        picture.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        status: Its exit status.
        errors: What it said on the standard error stream, without progress bars.
        manifest: What it wrote, if it did.
    """

    status: int
    errors: str
    manifest: Manifest | None


def prepare(root: Path, *, training: Mapping[str, Any] | None = None, **options: Any) -> Ending:
    """`python -m common prepare --dataset streets`, with options of the dataset.

    Anything but a sentence for the user is raised.
    """
    settings = {"module": "folder", "root": str(root), "class_names": CLASSES} | options
    config = TINY | {"datasets": ["streets"], "dataset_options": {"streets": settings}}
    config |= {
        "method_options": {},
        "results": str(root / "results"),
        "training": TINY["training"] | (training or {}),
    }  # type: ignore[operator]
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    status, errors = call("prepare", "--configfile", str(file), "--dataset", "streets")
    written = [path for path in (root / "results/datasets").glob("*.json") if ".error" not in path.suffixes]
    return Ending(status, errors, Manifest.read(written[0]) if written else None)


def call(*arguments: str) -> tuple[int, str]:
    """Exit status and errors of `python -m common …`, within this process."""
    errors = io.StringIO()
    with (
        patch.object(sys, "argv", ["common", *arguments]),
        redirect_stderr(errors),
        redirect_stdout(io.StringIO()),
    ):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), errors.getvalue()
    return 0, errors.getvalue()


Spoil = Callable[[Path], object]
