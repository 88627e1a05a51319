"""Command `predict`: labels of any pictures by a finished run, its structure and refinement included."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from common import devices, figures, metrics, pictures, stages
from common.datasets.base import coloured
from common.errors import OutOfMemory, UserError
from common.files import read_json, replacing, write_json
from common.finished import Finished
from common.inference import Predictor
from common.pictures import RGB, Picture
from common.provenance import record

OPACITY = 0.5
"""Of the colours in an overlay."""

DARKEST = 80
"""What black becomes in an overlay: at night, too, the colours shall be told apart."""

SUBMISSION = Path("results/VOC2012/Segmentation/comp6_test_cls")
"""Where the PASCAL VOC evaluation server expects the label maps (competition 6: any training data)."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Which files are written for each picture.

    Attributes:
        folder: Where.
        overlay: Whether to write the picture under its colours, too.
        probabilities: Whether to write the class probabilities, too.
        voc_submission: Whether to write the files of the VOC evaluation server, too.
    """

    folder: Path
    overlay: bool = False
    probabilities: bool = False
    voc_submission: bool = False

    def files(self, name: str) -> dict[str, Path]:
        """The files of one picture, by kind."""
        files = {kind: self.folder / kind / f"{name}.png" for kind in ("labels", "colour")}
        if self.overlay:
            files["overlay"] = self.folder / "overlay" / f"{name}.png"
        if self.probabilities:
            files["probabilities"] = self.folder / "probabilities" / f"{name}.npz"
        if self.voc_submission:
            files["submission"] = self.folder / SUBMISSION / f"{Path(name).name}.png"
        return files


@dataclass(frozen=True)
class Done:
    """What came of the pictures.

    Attributes:
        predicted: How many were predicted.
        skipped: How many had been predicted before.
        failures: A sentence about each that could not be read.
    """

    predicted: int
    skipped: int
    failures: tuple[str, ...]


def predict(
    run: Finished,
    found: Iterable[Picture],
    outputs: Outputs,
    device: torch.device,
    batch_size: int = 4,
) -> Done:
    """Writes what a finished run predicts for pictures, at their original size.

    Pictures whose files are all there already are skipped, so an interrupted prediction goes on where it was.
    A picture that cannot be read does not keep the others from being predicted.

    Args:
        run: The run.
        found: The pictures.
        outputs: What to write.
        device: What to compute on.
        batch_size: How many pictures to predict at a time; they must follow each other and be of one size.

    Raises:
        UserError: The folder has the predictions of another run, or the run cannot predict them.
    """
    if outputs.voc_submission:
        _check_voc(run)
    predictor = run.predictor(device)
    _claim(run, outputs.folder, device)
    predicted, skipped, failures = 0, 0, []

    def wanted() -> Iterator[tuple[Picture, RGB]]:
        nonlocal skipped
        for picture in tqdm(found, desc="pictures", unit="", disable=None):
            if all(file.exists() for file in outputs.files(picture.name).values()):
                skipped += 1
                continue
            try:
                yield picture, picture.read()
            except UserError as error:
                failures.append(str(error))

    for batch in _batches(wanted(), batch_size):
        probabilities = _probabilities(predictor, [image for _, image in batch])
        for (picture, image), map_ in zip(batch, probabilities):
            _write(run, outputs, picture.name, image, map_)
        predicted += len(batch)
    return Done(predicted, skipped, tuple(failures))


def _batches(read: Iterable[tuple[Picture, RGB]], batch_size: int) -> Iterator[list[tuple[Picture, RGB]]]:
    batch: list[tuple[Picture, RGB]] = []
    for item in read:
        if batch and (len(batch) == batch_size or batch[0][1].shape != item[1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.inference_mode()
def _probabilities(predictor: Predictor, images: Sequence[RGB]) -> torch.Tensor:
    """`[N, K, H, W]` of images of one size."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    try:
        return predictor(stacked.to(predictor.device))
    except torch.OutOfMemoryError:
        h, w = images[0].shape[:2]
        raise OutOfMemory(
            f"the GPU's memory is too small for {len(images)} pictures of {w}×{h} at a time: use a smaller "
            "--batch-size, or --device cpu"
        ) from None


def _write(run: Finished, outputs: Outputs, name: str, image: RGB, probabilities: torch.Tensor) -> None:
    labels = metrics.labels_of(probabilities.unsqueeze(0))[0].cpu().numpy()
    for kind, file in outputs.files(name).items():
        with replacing(file, "wb") as opened:
            if kind == "labels":
                Image.fromarray(labels).save(opened, "PNG")
            elif kind in ("colour", "submission"):
                palette_picture(labels, run.colours).save(opened, "PNG")
            elif kind == "overlay":
                Image.fromarray(overlaid(image, coloured(labels, run.colours))).save(opened, "PNG")
            else:
                np.savez_compressed(opened, probabilities=probabilities.cpu().numpy().astype(np.float16))


def palette_picture(labels: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]]) -> Image.Image:
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


def _claim(run: Finished, folder: Path, device: torch.device) -> None:
    """Says in the folder whose predictions it has; a UserError if it has those of another run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be written to: {error.strerror}") from None
    file = folder / "prediction.json"
    if file.exists():
        other = read_json(file)
        if (other["method"], other["digest"]) != (run.method, run.digest):
            raise UserError(
                f"{folder} has predictions of {other['method']}, seed {other['seed']} ({other['digest']}): "
                "choose another --output, or delete it"
            )
    figures.draw_legend(folder / "legend.png", run.class_names, run.colours)
    write_json(file, run.describe() | {"provenance": record(devices.describe(device))})


def _check_voc(run: Finished) -> None:
    names = tuple(re.sub("[^a-z]", "", name.lower()) for name in run.class_names)
    if names != VOC_CLASSES:
        raise UserError(
            f"--voc-submission: the model was trained on {run.dataset}, whose {len(names)} classes are not "
            "the 21 of PASCAL VOC in their order: the server cannot score it"
        )


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of auto, cpu, cuda, cuda:<index>")
    return name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m common.predict",
        description="Predicts the labels of any pictures with a finished run.",
    )
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
    parser.add_argument("--batch-size", type=int, default=4, help="pictures at a time (default: 4)")
    parser.add_argument(
        "--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:<index>"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parsed = parser.parse_args()
    if parsed.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    return parsed


def _main() -> None:
    parsed = _arguments()
    devices.set_threads(parsed.threads)
    outputs = Outputs(parsed.output, parsed.overlay, parsed.probabilities, parsed.voc_submission)
    run = Finished.read(parsed.run)
    found = pictures.find(parsed.images, leave_out=parsed.output)
    with devices.leased(parsed.device) as device:
        done = predict(run, found, outputs, device, parsed.batch_size)
    kinds = ", ".join(sorted({*outputs.files("x")} - {"submission"}))
    print(f"{done.predicted} predicted, {done.skipped} were there already: {kinds} in {parsed.output}")
    if outputs.voc_submission:
        print(f"To submit: tar -C {parsed.output} -czf results.tgz {SUBMISSION.parts[0]}")
    if done.failures:
        listed = "; ".join(done.failures)
        raise UserError(
            f"{listed}" if len(done.failures) == 1 else f"{len(done.failures)} not read: {listed}"
        )


if __name__ == "__main__":
    stages.main(_main)
