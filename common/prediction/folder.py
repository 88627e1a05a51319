"""The folder that predictions of pictures are written to: label maps, and what goes with them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from common.files import locked, read_record, replacing, write_record
from common.images.legend import draw_legend
from common.images.palette import Colour, coloured
from common.images.pictures import RGB
from common.machine import devices
from common.networks.structured import Refined
from common.prediction.inputs import CLAIM, SUBMISSION, WRITTEN
from common.prediction.predictor import labels_of
from common.prediction.stored_run import Description, StoredRun
from common.provenance import Provenance

OPACITY = 0.5
"""Of the colours in an overlay."""

DARKEST = 80
"""What black becomes in an overlay: at night, too, the colours shall be told apart."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Claim(Description):
    """`prediction.json`: whose predictions a folder has.

    Attributes:
        provenance: How they came to be.
    """

    provenance: Provenance


@dataclass(frozen=True)
class PredictionFolder:
    """A folder, and which files are written there for each picture.

    Attributes:
        path: The folder.
        overlay: Whether to write the picture under its colours, too.
        probabilities: Whether to write the class probabilities, too.
        voc_submission: Whether to write the files of the VOC evaluation server, too.
    """

    path: Path
    overlay: bool = False
    probabilities: bool = False
    voc_submission: bool = False

    def files(self, name: str) -> dict[str, Path]:
        """The files of one picture, by kind."""
        files = {kind: self.path / kind / f"{name}.png" for kind in ("labels", "colour")}
        if self.overlay:
            files["overlay"] = self.path / "overlay" / f"{name}.png"
        if self.probabilities:
            files["probabilities"] = self.path / "probabilities" / f"{name}.npz"
        if self.voc_submission:
            files["submission"] = self.path / SUBMISSION / f"{Path(name).name}.png"
        return files

    def complete(self, name: str) -> bool:
        """Whether all files of that name are there, of whatever picture they are."""
        return all(file.exists() for file in self.files(name).values())

    def check(self, run: StoredRun) -> None:
        """Checks that what a run predicts can be written as it is wanted.

        Raises:
            UserError: The evaluation server of VOC does not know the classes of the run.
        """
        names = tuple(re.sub("[^a-z]", "", name.lower()) for name in run.class_names)
        if self.voc_submission and names != VOC_CLASSES:
            raise UserError(
                f"--voc-submission: the model was trained on {run.dataset}, whose {len(names)} classes are "
                "not the 21 of PASCAL VOC in their order: the server cannot score it"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder for the block.

        Raises:
            UserError: One does, or the folder cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stack = contextlib.ExitStack()
            stack.enter_context(locked(self.path / ".lock"))
        except OSError as error:
            raise UserError(f"--output: {self.path} cannot be written to: {error.strerror}") from None
        with stack:
            yield

    def claim(self, run: StoredRun, device: torch.device) -> None:
        """Says in the folder whose predictions it has, and which class has which colour.

        What a process that was killed has left of files is removed.

        Raises:
            UserError: It has those of another run.
        """
        file = self.path / CLAIM
        if file.exists():
            other = read_record(file, Claim, f"delete {self.path}")
            if (other.method, other.digest) != (run.method, run.digest):
                raise UserError(
                    f"{self.path} has predictions of {other.method}, seed {other.seed} ({other.digest}): "
                    "choose another --output, or delete it"
                )
        for written in (Path(CLAIM), *WRITTEN):
            place = self.path / written
            for left in [*place.parent.glob(f".{place.name}.*.tmp"), *place.rglob(".*.tmp")]:
                left.unlink(missing_ok=True)
        draw_legend(self.path / "legend.png", run.class_names, run.colours)
        provenance = Provenance.now(devices.describe(device))
        write_record(file, Claim(**vars(run.description()), provenance=provenance))

    def write(self, name: str, image: RGB, result: Refined, colours: Sequence[Colour]) -> None:
        """Writes all files of a picture.

        Args:
            name: What they are called.
            image: The picture.
            result: What has become of it, N = 1, on any device.
            colours: One per class.
        """
        labels = labels_of(result)[0].cpu().numpy()
        for kind, file in self.files(name).items():
            with replacing(file, "wb") as opened:
                if kind == "labels":
                    Image.fromarray(labels).save(opened, "PNG")
                elif kind in ("colour", "submission"):
                    palette_picture(labels, colours).save(opened, "PNG")
                elif kind == "overlay":
                    Image.fromarray(overlaid(image, coloured(labels, tuple(colours)))).save(opened, "PNG")
                else:
                    halves = result.probabilities[0].cpu().numpy().astype(np.float16)
                    np.savez_compressed(opened, probabilities=halves)


def palette_picture(labels: NDArray[np.uint8], colours: Sequence[Colour]) -> Image.Image:
    """A picture whose values are the labels and whose palette shows them in their colours."""
    picture = Image.fromarray(labels)
    table = coloured(np.arange(256, dtype=np.uint8)[None], tuple(colours))
    picture.putpalette(table.tobytes())
    return picture


def overlaid(image: RGB, colours: RGB) -> RGB:
    """The image, in grey and lighter than it is, under the colours of its labels, all `[H, W, 3]`."""
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    light = DARKEST + (255 - DARKEST) / 255 * grey
    return ((1 - OPACITY) * light + OPACITY * colours).round().astype(np.uint8)
