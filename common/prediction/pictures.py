"""Predictions of any pictures with a finished run, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from common.errors import OutOfMemory, UserError
from common.images.pictures import RGB, Picture
from common.networks.structured import Refined
from common.prediction.folder import PredictionFolder
from common.prediction.inputs import BATCH_SIZE
from common.prediction.origins import Origins
from common.prediction.predictor import Predictor, check_result
from common.prediction.stored_run import StoredRun


@dataclass
class Tally:
    """What has come of the pictures.

    Attributes:
        predicted: How many were predicted.
        skipped: How many had been predicted before.
        changed: How many of the predicted had been predicted before, and have changed since.
        unread: A sentence about each that could not be read.
    """

    predicted: int
    skipped: int
    unread: list[str]
    changed: int = 0


def predict(
    run: StoredRun,
    pictures: Iterable[Picture],
    folder: PredictionFolder,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
) -> Tally:
    """Writes what a finished run predicts for pictures, at their original size.

    Pictures whose files are all there already are skipped, so an interrupted prediction goes on where it was;
    a picture is known by its content. One that cannot be read does not keep the others from being predicted.

    Args:
        run: The run.
        pictures: The pictures.
        folder: Where to write, and what.
        device: What to compute on.
        batch_size: How many pictures to predict at a time; they must follow each other and be of one size.

    Raises:
        UserError: The folder has the predictions of another run, or of another picture of the same name, or
            another process writes there, or the run cannot predict them.
    """
    folder.check(run)
    predictor = run.predictor(device)
    tally = Tally(0, 0, [])
    with folder.held():
        folder.claim(run, device)
        origins = Origins(folder.path)
        for batch in _batches(_images(pictures, folder, origins, tally), batch_size):
            results = _results(predictor, [image for _, image in batch])
            for (picture, image), of_image in zip(batch, results.each()):
                check_result(of_image, str(picture.file), predictor.method)
                folder.write(picture.name, image, of_image, run.colours)
                origins.add(picture)
            tally.predicted += len(batch)
    return tally


def _images(
    pictures: Iterable[Picture], folder: PredictionFolder, origins: Origins, tally: Tally
) -> Iterator[tuple[Picture, RGB]]:
    """The pictures that are still to be predicted and can be read, with their pixels.

    Raises:
        UserError: The folder has the prediction of another picture of the same name.
    """
    for picture in tqdm(pictures, desc="pictures", unit="", disable=None):
        if folder.voc_submission:
            origins.check_last_part(picture.name)
        same = origins.has(picture)
        if same and folder.complete(picture.name):
            tally.skipped += 1
            continue
        try:
            pixels = picture.read()
        except UserError as error:
            tally.unread.append(str(error))
            continue
        tally.changed += origins.names(picture) and not same
        yield picture, pixels


def _batches(images: Iterable[tuple[Picture, RGB]], batch_size: int) -> Iterator[list[tuple[Picture, RGB]]]:
    """Images that follow each other and are of one size, together."""
    batch: list[tuple[Picture, RGB]] = []
    for item in images:
        if batch and (len(batch) == batch_size or batch[0][1].shape != item[1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.inference_mode()
def _results(predictor: Predictor, images: Sequence[RGB]) -> Refined:
    """What becomes of images of one size."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    try:
        return predictor(stacked.to(predictor.device))
    except torch.OutOfMemoryError:
        h, w = images[0].shape[:2]
        raise OutOfMemory(
            f"the GPU's memory is too small for {len(images)} pictures of {w}×{h} at a time: use a smaller "
            "--batch-size, or --device cpu"
        ) from None
