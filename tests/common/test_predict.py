"""Prediction of any pictures from the files of a finished run alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common import config as configuration
from common import evaluate, pictures, prepare, runs, train
from common.config import Config
from common.datasets.loading import Split
from common.errors import UserError
from common.files import read_json
from common.finished import Finished
from common.metrics import confusion
from common.predict import SUBMISSION, Outputs, predict
from tests.conftest import ROOT, TINY, run

MODEL = "deeplabv3plus-test_resnet"
CPU = torch.device("cpu")
METHODS = ["ce", "ddcrf", "crf-1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose runs are trained and evaluated."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("results")
    content = yaml.safe_load(yaml.safe_dump(TINY)) | {"methods": METHODS, "results": str(folder)}
    config = configuration.complete(content)
    prepare.prepare(config, "digits")
    for found in runs.runs(config):
        train.train(config, found.training)
        evaluate.evaluate(config, found)
    return config


@pytest.fixture(scope="module")
def images(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images as files; those that the panels show are among them."""
    folder = tmp_path_factory.mktemp("images")
    dataset = configuration.dataset(config, "digits")
    for name in dataset.names("test"):
        Image.fromarray(dataset.read("test", name)[0]).save(folder / f"{name}.png")
    return folder


def found(config: Config, method: str) -> runs.Run:
    return runs.run(config, "digits", MODEL, method, 0)


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_what_was_evaluated(
    method: str, config: Config, images: Path, tmp_path: Path
) -> None:
    """The confusion counts of the predicted PNGs are those of the evaluate stage, for every image."""
    scored = found(config, method)
    done = predict(Finished.read(scored.folder), pictures.find([images]), Outputs(tmp_path), CPU, 1)
    assert (done.predicted, done.skipped, done.failures) == (4, 0, ())
    predicted = labels_in(tmp_path / "labels")
    split = Split(configuration.dataset(config, "digits"), read_json(scored.manifest.path), "test")
    with np.load(scored.per_image) as arrays:
        for index, (_, name) in enumerate(split.names):
            counts = confusion(torch.from_numpy(predicted[name]), split[index].labels, 11)
            assert np.array_equal(counts, arrays["confusion"][index])


def test_what_is_written(config: Config, images: Path, tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, overlay=True, probabilities=True)
    predict(Finished.read(found(config, "crf-1").folder), pictures.find([images]), outputs, CPU, batch_size=3)
    colours = configuration.dataset(config, "digits").colours
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
        predict(Finished.read(found(config, "ce").folder), [], Outputs(tmp_path / "legend.png"), CPU)
    told = read_json(tmp_path / "prediction.json")
    assert told["method"] == "crf-1" and told["trained_as"] == "ce"
    assert told["class_names"][0] == "background"


def test_batches_do_not_change_predictions(config: Config, images: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    odd = tmp_path / "odd"  # a picture of another size among them
    shutil.copytree(images, odd)
    first = sorted(odd.iterdir())[1]
    Image.open(first).resize((61, 50)).save(first)
    for folder, size in ((one, 1), (many, 4)):
        run = Finished.read(found(config, "ddcrf").training.folder)
        predict(run, pictures.find([odd]), Outputs(folder), CPU, size)
    for (name, a), b in zip(labels_in(one / "labels").items(), labels_in(many / "labels").values()):
        assert a.shape == b.shape and (a == b).mean() > 0.999, name


def test_an_interrupted_prediction_goes_on(config: Config, images: Path, tmp_path: Path) -> None:
    run = Finished.read(found(config, "ce").folder)
    predict(run, pictures.find([images]), Outputs(tmp_path), CPU)
    gone = sorted((tmp_path / "labels").iterdir())[2]
    kept = gone.read_bytes()
    gone.unlink()
    done = predict(run, pictures.find([images]), Outputs(tmp_path), CPU)
    assert (done.predicted, done.skipped) == (1, 3)
    assert gone.read_bytes() == kept
    assert predict(run, pictures.find([images]), Outputs(tmp_path, overlay=True), CPU).predicted == 4
    with pytest.raises(UserError, match="has predictions of ce, seed 0 .*choose another --output"):
        predict(Finished.read(found(config, "crf-1").folder), pictures.find([images]), Outputs(tmp_path), CPU)


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(
    config: Config, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    first, *_ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:200])
    (folder / "deep.png").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "sixteen.png")
    done = predict(
        Finished.read(found(config, "ce").folder), pictures.find([folder]), Outputs(tmp_path / "out"), CPU
    )
    assert done.predicted == 3 and len(done.failures) == 3
    for name, sentence in zip(("deep", "sixteen", first.stem), sorted(done.failures)):
        assert f"{name}.png" in sentence and len(sentence.splitlines()) == 1
    assert not (tmp_path / f"out/labels/{first.name}").exists()


def test_the_layout_of_the_voc_server(config: Config, images: Path, tmp_path: Path) -> None:
    scored = found(config, "ce")
    with pytest.raises(UserError, match="digits, whose 11 classes are not the 21 of PASCAL VOC"):
        outputs = Outputs(tmp_path / "out", voc_submission=True)
        predict(Finished.read(scored.folder), pictures.find([images]), outputs, CPU)
    voc = voc_run(scored, tmp_path / "voc")
    picture = tmp_path / "2008_000006.jpg"
    Image.open(next(images.iterdir())).resize((70, 50)).save(picture)
    predict(voc, pictures.find([picture]), outputs, CPU)
    with Image.open(tmp_path / "out/results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png") as written:
        assert written.mode == "P" and written.size == (70, 50)
        assert np.array_equal(np.array(written), labels_in(tmp_path / "out/labels")["2008_000006"])
    assert SUBMISSION.parts[0] == "results", "the server wants this folder at the top of the archive"


def voc_run(scored: runs.Run, folder: Path) -> Finished:
    """The model with a classifier of 21 classes and the names of VOC."""
    names = [
        "Background", "Aeroplane", "Bicycle", "Bird", "Boat", "Bottle", "Bus", "Car", "Cat", "Chair", "Cow",
        "Diningtable", "Dog", "Horse", "Motorbike", "Person", "Potted-plant", "Sheep", "Sofa", "Train",
        "TV/monitor",
    ]  # fmt: skip
    model = torch.load(scored.training.file, weights_only=True)
    for key in ("classifier.weight", "classifier.bias"):
        model["network"][key] = torch.cat([model["network"][key]] * 2)[:21]
    model |= {"num_classes": 21, "class_names": names, "colours": [[i, 0, 0] for i in range(21)]}
    folder.mkdir()
    torch.save(model, folder / "model.pt")
    return Finished.read(folder)


# What is read


def test_pictures_are_upright_and_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    read = {picture.name: picture.read() for picture in pictures.find([tmp_path])}
    assert read["turned"].shape == (6, 4, 3) and read["turned"][0, 3].tolist() == [255, 255, 255]
    assert np.array_equal(read["alpha"], pixels)
    assert np.array_equal(read["grey"], pixels)


def test_folders_are_searched_and_names_are_unique(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.JPG", "a/.hidden.png", "out/labels/x.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [picture.name for picture in pictures.find([tmp_path], leave_out=tmp_path / "out")]
    assert names == ["a/x", "b/x"]
    with pytest.raises(UserError, match=r"a/x.png and .*b/x.JPG would both be called x"):
        pictures.find([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match="nowhere is not there"):
        pictures.find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no pictures"):
        pictures.find([tmp_path / "empty"])


def test_frames_of_a_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    shades = [30, 120, 210]
    with av.open(str(tmp_path / "drive.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in shades:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "damaged.mp4").write_bytes((tmp_path / "drive.mp4").read_bytes()[:100])
    found = list(pictures.find([tmp_path / "drive.mp4", tmp_path / "damaged.mp4"]))
    assert [picture.name for picture in found] == [
        "drive/000001", "drive/000002", "drive/000003", "damaged",
    ]  # fmt: skip
    for picture, shade in zip(found, shades):
        assert picture.read().shape == (48, 64, 3) and abs(picture.read().mean() - shade) < 5
    with pytest.raises(UserError, match="damaged.mp4 cannot be read as a video"):
        found[3].read()


def test_a_video_without_pyav_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "drive.mp4").touch()
    (picture,) = pictures.find([tmp_path / "drive.mp4"])
    with pytest.raises(UserError, match="videos need PyAV: pip install -r requirements-extra.txt"):
        picture.read()


# What a run is


def test_a_run_is_found_by_its_files_alone(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = found(config, "crf-1")
    moved = tmp_path / "moved"
    shutil.copytree(config["results"], moved)
    monkeypatch.chdir(tmp_path)
    read = Finished.read(Path("moved", scored.folder.relative_to(config["results"])))
    assert (read.method, read.trained_entry.name, read.digest) == ("crf-1", "ce", scored.digest)
    assert read.entry.options["iterations"] == 1
    alone = tmp_path / "alone"
    shutil.copytree(scored.folder, alone)
    with pytest.raises(UserError, match=r"model.pt is missing: .*alone needs it"):
        Finished.read(alone)
    shutil.copy(scored.training.file, alone)
    assert Finished.read(alone).method == "crf-1"
    assert Finished.read(scored.training.file).method == "ce"
    with pytest.raises(UserError, match=r"has neither metrics.json nor model.pt"):
        Finished.read(tmp_path)


def test_a_model_that_does_not_fit_the_code_is_one_sentence(config: Config, tmp_path: Path) -> None:
    model = torch.load(found(config, "ce").training.file, weights_only=True)
    model["model_options"]["decoder_channels"] = 9
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not fit the code") as caught:
        Finished.read(tmp_path).predictor(CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_a_method_that_was_edited_is_pointed_out(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Finished.read(found(config, "ce").training.folder)
    assert capsys.readouterr().err == ""
    model = torch.load(found(config, "ce").training.file, weights_only=True) | {"method_code": "0"}
    torch.save(model, tmp_path / "model.pt")
    Finished.read(tmp_path)
    assert "methods/ce.py has changed since this run" in capsys.readouterr().err


def test_the_command(config: Config, images: Path, tmp_path: Path) -> None:
    arguments = (
        "common.predict",
        "--run",
        str(found(config, "ce").folder),
        "--device",
        "cpu",
        "--threads",
        "1",
    )
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    picture = str(next(images.iterdir()))
    output = tmp_path / "out"
    result = run(*arguments, picture, str(broken), "--output", str(output), cwd=ROOT, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "1 predicted, 0 were there already" in result.stdout
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.startswith(f"structseg: {broken} cannot be read as a picture")
    assert [p.name for p in output.glob("*/*.png")] == 2 * [Path(picture).name]
