"""Command `predict`: labels of any pictures by a finished run, its structure and refinement included."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from common import compiler
from common.errors import UserError
from common.images import pictures
from common.machine import devices, job_locks
from common.prediction.inputs import BATCH_SIZE, SUBMISSION, described_by, is_output
from common.stages import entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to predict, with what, and where to write it."""
    parser.add_argument("images", type=Path, nargs="+", help="pictures, folders of pictures, videos")
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="folder of a run (results/runs/…) or a model (results/models/…)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--overlay", action="store_true", help="also write the pictures under the colours")
    parser.add_argument("--probabilities", action="store_true", help="also write the class probabilities")
    parser.add_argument(
        "--voc-submission", action="store_true", help="also write the files of the PASCAL VOC test server"
    )
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        default=BATCH_SIZE,
        help=f"pictures at a time (default: {BATCH_SIZE})",
    )
    parser.add_argument(
        "--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:<index>"
    )
    entry.add_threads(parser, dest="threads_later")


def _batch_size(text: str) -> int:
    """A number of pictures from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pictures: it must be at least 1")
    return int(text)


def _device(name: str) -> str:
    """The name of a device from the command line."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of auto, cpu, cuda, cuda:<index>")
    return name


def run(arguments: argparse.Namespace) -> None:
    """Predicts pictures and says how many.

    Raises:
        UserError: Some could not be read, or there is nothing to predict with or no place to write to.
    """
    described_by(arguments.run)
    inputs = pictures.find(arguments.images, leave_out=is_output)
    with compiler.put_off():  # they import PyTorch
        from common.prediction.folder import PredictionFolder
        from common.prediction.pictures import predict
        from common.prediction.stored_run import StoredRun

    folder = PredictionFolder(
        arguments.output, arguments.overlay, arguments.probabilities, arguments.voc_submission
    )
    devices.set_threads(arguments.threads_later)
    stored = StoredRun.read(arguments.run)
    with devices.leased(arguments.device) as device, job_locks.shared(device.type):
        tally = predict(stored, inputs, folder, device, arguments.batch_size)
    kinds = ", ".join(sorted({*folder.files("x")} - {"submission"}))
    print(f"{tally.predicted} predicted, {tally.skipped} were there already: {kinds} in {arguments.output}")
    if tally.changed:
        print(f"{tally.changed} of them had changed since they were predicted before")
    if folder.voc_submission:
        print(f"To submit: tar -C {arguments.output} -czf results.tgz {SUBMISSION.parts[0]}")
    if tally.unread:
        listed = "; ".join(tally.unread)
        raise UserError(listed if len(tally.unread) == 1 else f"{len(tally.unread)} not read: {listed}")
