"""Prediction of any pictures from the files of a finished run alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config.entries import Config
from common.datasets.split import Split
from common.errors import UserError
from common.files import read_json
from common.images import pictures
from common.prediction.folder import PredictionFolder
from common.prediction.inputs import SUBMISSION
from common.prediction.pictures import predict
from common.prediction.stored_run import StoredRun
from common.runs import plan
from common.runs.jobs import TrainedRun
from common.runs.records import state_sha256
from common.scoring.counts import SplitCounts
from common.scoring.metrics import confusion
from methods.base import Method
from tests.common.prediction.conftest import CPU, METHODS, scored, stored


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_what_was_evaluated(
    method: str, config: Config, images: Path, tmp_path: Path
) -> None:
    """The confusion counts of the predicted PNGs are those of the evaluate stage, for every image."""
    evaluated = scored(config, method)
    folder = PredictionFolder(tmp_path)
    tally = predict(stored(config, method), pictures.find([images]), folder, CPU, 1)
    assert (tally.predicted, tally.skipped, tally.unread) == (4, 0, [])
    predicted = labels_in(tmp_path / "labels")
    split = Split(evaluated.data.dataset, evaluated.data.manifest(), "test")
    expected = SplitCounts.read(evaluated.per_image).confusion
    for index, (_, name) in enumerate(split.names):
        counts = confusion(torch.from_numpy(predicted[name]), split[index].labels, 11)
        assert np.array_equal(counts, expected[index])


def test_what_is_written(config: Config, images: Path, tmp_path: Path) -> None:
    outputs = PredictionFolder(tmp_path, overlay=True, probabilities=True)
    predict(stored(config, "crf-1"), pictures.find([images]), outputs, CPU, batch_size=3)
    colours = plan.preparation(config, "digits").dataset.colours
    for name, labels in labels_in(tmp_path / "labels").items():
        assert labels.dtype == np.uint8 and labels.shape == (48, 48)
        with Image.open(tmp_path / f"colour/{name}.png") as picture:
            assert picture.mode == "P" and np.array_equal(np.array(picture), labels)
            assert np.array_equal(np.array(picture.convert("RGB")), np.array(colours)[labels])
        with np.load(tmp_path / f"probabilities/{name}.npz") as arrays:
            probabilities = arrays["probabilities"].astype(np.float32)
        assert probabilities.shape == (11, 48, 48)
        assert np.allclose(probabilities.sum(axis=0), 1, atol=0.01)
        chosen = np.take_along_axis(probabilities, labels[None], axis=0)[0]
        assert (chosen >= probabilities.max(axis=0) - 0.001).all()
        overlay = np.array(Image.open(tmp_path / f"overlay/{name}.png")).astype(int)
        grey = np.array(Image.open(images / f"{name}.png").convert("L")).astype(int)
        light = 80 + 175 / 255 * grey[..., None]
        assert np.abs(overlay - (light + np.array(colours)[labels]) / 2).max() <= 0.501
    with Image.open(tmp_path / "legend.png") as legend:
        shown = {colour for _, colour in legend.convert("RGB").getcolors(10**6)}
    assert shown >= {*colours}
    with pytest.raises(UserError, match="legend.png cannot be written to: File exists"):
        predict(stored(config, "ce"), [], PredictionFolder(tmp_path / "legend.png"), CPU)
    record = read_json(tmp_path / "prediction.json")
    assert record["method"] == "crf-1" and record["trained_as"] == "ce"
    assert record["class_names"][0] == "background"


def test_batches_do_not_change_predictions(config: Config, images: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    odd = tmp_path / "odd"  # a picture of another size among them
    shutil.copytree(images, odd)
    first = sorted(odd.iterdir())[1]
    Image.open(first).resize((61, 50)).save(first)
    for folder, size in ((one, 1), (many, 4)):
        run = StoredRun.read(scored(config, "ddcrf").training.folder)
        predict(run, pictures.find([odd]), PredictionFolder(folder), CPU, size)
    for (name, a), b in zip(labels_in(one / "labels").items(), labels_in(many / "labels").values()):
        assert a.shape == b.shape and (a == b).mean() > 0.999, name


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        (lambda p: 2 * p, "have sums over classes from 2 to 2, not of one: methods/ce.py cannot work with"),
        (lambda p: p / 0 * 0, "are not finite: the model has diverged, or methods/ce.py cannot work with"),
    ],
)
def test_every_picture_has_probabilities_not_the_first_alone(
    later: Callable[[torch.Tensor], torch.Tensor],
    sentence: str,
    config: Config,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def refine(self: Method, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return probabilities if len(seen) == 1 else later(probabilities)

    monkeypatch.setattr("methods.ce.CrossEntropy.refine", refine)
    first, second, *_ = sorted(images.iterdir())
    with pytest.raises(UserError, match=f"the probabilities of {second} {sentence}"):
        predict(stored(config, "ce"), pictures.find([images]), PredictionFolder(tmp_path), CPU, 1)
    assert [*labels_in(tmp_path / "labels")] == [first.stem]


def test_every_picture_has_labels_of_classes_not_the_first_alone(
    config: Config, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that decides."""
    decided: list[int] = []

    def refine(self: Method, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        decided.append(1)
        labels = probabilities.argmax(dim=1)
        return labels if len(decided) == 1 else torch.full_like(labels, 11)

    monkeypatch.setattr("methods.ce.CrossEntropy.refine", refine)
    first, second, *_ = sorted(images.iterdir())
    with pytest.raises(
        UserError, match=f"methods/ce.py: refine returns labels of {second} that are no class"
    ):
        predict(stored(config, "ce"), pictures.find([images]), PredictionFolder(tmp_path), CPU, 1)
    assert [*labels_in(tmp_path / "labels")] == [first.stem]


def test_an_interrupted_prediction_goes_on(config: Config, images: Path, tmp_path: Path) -> None:
    run = stored(config, "ce")
    predict(run, pictures.find([images]), PredictionFolder(tmp_path), CPU)
    gone = sorted((tmp_path / "labels").iterdir())[2]
    kept = gone.read_bytes()
    gone.unlink()
    tally = predict(run, pictures.find([images]), PredictionFolder(tmp_path), CPU)
    assert (tally.predicted, tally.skipped) == (1, 3)
    assert gone.read_bytes() == kept
    assert predict(run, pictures.find([images]), PredictionFolder(tmp_path, overlay=True), CPU).predicted == 4
    with pytest.raises(UserError, match="has predictions of ce, seed 0 .*choose another --output"):
        predict(
            stored(config, "crf-1"),
            pictures.find([images]),
            PredictionFolder(tmp_path),
            CPU,
        )


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(
    config: Config, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    first, *_ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:200])
    (folder / "deep.png").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "sixteen.png")
    tally = predict(
        stored(config, "ce"),
        pictures.find([folder]),
        PredictionFolder(tmp_path / "out"),
        CPU,
    )
    assert tally.predicted == 3 and len(tally.unread) == 3
    for name, sentence in zip(("deep", "sixteen", first.stem), sorted(tally.unread)):
        assert f"{name}.png" in sentence and len(sentence.splitlines()) == 1
    assert not (tmp_path / f"out/labels/{first.name}").exists()


def test_the_layout_of_the_voc_server(config: Config, images: Path, tmp_path: Path) -> None:
    evaluated = scored(config, "ce")
    with pytest.raises(UserError, match="digits, whose 11 classes are not the 21 of PASCAL VOC"):
        outputs = PredictionFolder(tmp_path / "out", voc_submission=True)
        predict(StoredRun.read(evaluated.folder), pictures.find([images]), outputs, CPU)
    voc = voc_run(evaluated, tmp_path / "voc")
    picture = tmp_path / "2008_000006.jpg"
    Image.open(next(images.iterdir())).resize((70, 50)).save(picture)
    predict(voc, pictures.find([picture]), outputs, CPU)
    with Image.open(tmp_path / "out/results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png") as written:
        assert written.mode == "P" and written.size == (70, 50)
        assert np.array_equal(np.array(written), labels_in(tmp_path / "out/labels")["2008_000006"])
    assert SUBMISSION.parts[0] == "results", "the server wants this folder at the top of the archive"


def voc_run(evaluated: TrainedRun, folder: Path) -> StoredRun:
    """The model with a classifier of 21 classes and the names of VOC."""
    names = [
        "Background", "Aeroplane", "Bicycle", "Bird", "Boat", "Bottle", "Bus", "Car", "Cat", "Chair", "Cow",
        "Diningtable", "Dog", "Horse", "Motorbike", "Person", "Potted-plant", "Sheep", "Sofa", "Train",
        "TV/monitor",
    ]  # fmt: skip
    model = torch.load(evaluated.training.file, weights_only=True)
    for key in ("classifier.weight", "classifier.bias"):
        model["network"][key] = torch.cat([model["network"][key]] * 2)[:21]
    model["state_sha256"] = state_sha256(model["network"], model["method_state"])
    model |= {"num_classes": 21, "class_names": names, "colours": [[i, 0, 0] for i in range(21)]}
    folder.mkdir()
    torch.save(model, folder / "model.pt")
    return StoredRun.read(folder)
