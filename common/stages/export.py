"""Command `export`: a finished run as one file that runs without this project."""

from __future__ import annotations

import argparse
from pathlib import Path

from common import compiler
from common.errors import UserError
from common.machine import devices
from common.prediction.inputs import FORMATS, described_by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to export, where to, and how."""
    parser.add_argument("output", type=Path, help="the file, .pt2, .pt or .onnx")
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of a run or of a trained model, in results/"
    )
    parser.add_argument(
        "--format", choices=sorted({*FORMATS.values()}), help="by default what the file's ending says"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="see images once, as they are, although the run is evaluated at several scales or mirrored",
    )
    parser.add_argument(
        "--size", type=_pixels, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all images (default: any)"
    )


def _pixels(text: str) -> int:
    """A number of pixels from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels: it must be at least 1")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    """Writes the file and says what it is.

    Raises:
        UserError: The run is missing or cannot be exported, or the format is not clear.
    """
    output: Path = arguments.output
    kind = arguments.format or FORMATS.get(output.suffix)
    if kind is None:
        raise UserError(f"{output}: end it with .pt2, .pt or .onnx, or give --format")
    described_by(arguments.run)
    with compiler.put_off():  # they import PyTorch
        from common.prediction.export import export
        from common.prediction.predictor import View
        from common.prediction.stored_run import StoredRun

    devices.set_threads(None)
    stored = StoredRun.read(arguments.run)
    size = tuple(arguments.size) if arguments.size else None
    views = (View(),) if arguments.plain else stored.views
    export(stored, output, kind, size, views)
    name = f"{stored.model} with {stored.method}, seed {stored.seed}"
    if views == stored.views:
        print(f"{output}: {kind}, the same as {name}")
    else:
        print(
            f"{output}: {kind}, not the same as {name}: that is evaluated as the mean of {len(stored.views)} "
            "views of an image (scales, flips), and this sees it once"
        )
