"""PASCAL VOC and SBD: every form that they are published in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from common.config import reading
from common.datasets.inspection import inspect
from common.datasets.on_disk import FileDataset
from common.datasets.split import Split
from common.datasets.voc import VOC
from common.errors import UserError
from common.images.palette import voc_colours
from common.runs import plan
from common.runs.records import Metrics
from common.stages import evaluate, prepare, tabulate, train
from tests.common.datasets import layouts
from tests.conftest import TINY


def read_all(dataset: FileDataset, split: str) -> dict[str, np.ndarray]:
    return {name: dataset.read(split, name)[1] for name in dataset.names(split)}


def test_voc_is_built_from_the_original_files(tmp_path: Path) -> None:
    dataset = VOC(str(layouts.write_sbd(layouts.write_voc(tmp_path))))
    assert dataset.names("train") == layouts.TRAIN
    assert dataset.names("val") == layouts.VAL
    image, labels = dataset.read("train", "2007_000002")
    jpeg = Image.open(tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_000002.jpg")
    assert np.array_equal(image, np.array(jpeg))
    assert np.array_equal(labels, layouts.bordered(2)), "the indices of the palette; the borders are void"


def test_voc_is_augmented_with_what_sbd_has_besides(tmp_path: Path) -> None:
    dataset = VOC(str(layouts.write_sbd(layouts.write_voc(tmp_path))))
    assert dataset.names("sbd") == layouts.FURTHER, "neither val nor what VOC itself labels"
    for name, labels in read_all(dataset, "sbd").items():
        assert np.array_equal(labels, layouts.further(name))
    assert dataset.parts("trainaug") == ["train", "sbd"]
    assert dataset.parts("trainval") == ["train", "val"]
    manifest = layouts.prepared(dataset, tmp_path / "results")
    assert len(Split(dataset, manifest, "trainaug")) == 5
    assert len(Split(dataset, manifest, "trainval+train")) == 3, "no image twice"


def test_a_ready_folder_of_label_maps_takes_the_place_of_sbd(tmp_path: Path) -> None:
    ready = VOC(str(layouts.write_aug(layouts.write_voc(tmp_path / "ready"))))
    built = VOC(str(layouts.write_sbd(layouts.write_voc(tmp_path / "built"))))
    for split in ready.splits:
        ours, theirs = read_all(ready, split), read_all(built, split)
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_of_voc_may_be_any_of_its_folders(tmp_path: Path, inner: str) -> None:
    layouts.write_voc(tmp_path / "voc")
    layouts.write_sbd(tmp_path / "sbd")
    dataset = VOC(str(tmp_path / "voc" / inner), sbd_root=str(tmp_path / "sbd/benchmark_RELEASE"))
    assert [len(dataset.names(split)) for split in dataset.splits] == [2, 1, 3]


def test_voc_can_do_without_sbd(tmp_path: Path) -> None:
    root = str(layouts.write_voc(tmp_path))
    with pytest.raises(UserError, match="has no annotations of SBD .*data_voc.*sbd: false"):
        VOC(root).names("sbd")
    dataset = VOC(root, sbd=False)
    assert dataset.split_names() == ["train", "val", "trainval"]
    inspect(dataset)


def write_mat(content: object) -> Callable[[Path], None]:
    return lambda path: savemat(path, {"GTcls": content})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "2008_000005.mat is missing"),
        (lambda path: path.write_bytes(b"MATLAB"), "cannot be read as SBD's GTcls.Segmentation"),
        (write_mat({"Boundaries": [1]}), "cannot be read as SBD's GTcls.Segmentation"),
        (
            write_mat({"Segmentation": np.full(layouts.SIZE, 21, np.uint8)}),
            r"has the labels \[21\]: only 0–20",
        ),
        (write_mat({"Segmentation": np.zeros((3, 4), np.uint8)}), "is 4×3 but its image is 16×12"),
        (write_mat({"Segmentation": np.full(layouts.SIZE, 0.5)}), "is no map of labels"),
    ],
)
def test_bad_files_of_sbd_are_one_sentence(tmp_path: Path, damage: Callable, sentence: str) -> None:
    root = layouts.write_sbd(layouts.write_voc(tmp_path))
    damage(root / "benchmark_RELEASE/dataset/cls/2008_000005.mat")
    with pytest.raises(UserError, match=sentence):
        VOC(str(root)).read("sbd", "2008_000005")


def test_label_maps_of_voc_in_colours_are_refused(tmp_path: Path) -> None:
    """Some tools write the palette out; the classes are lost then."""
    layouts.write_voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(UserError, match="has several channels"):
        VOC(str(tmp_path)).read("train", "2007_000001")


def test_the_colours_are_those_of_the_files() -> None:
    assert voc_colours(0, 3) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc_colours(20, 20) == ((0, 64, 128),)
    assert voc_colours(255, 255) == ((224, 224, 192),), "the colour of VOC's borders"


SPLITS = [
    ("training: {split: trainaug}\nevaluation: {split: val}", None),
    ("training: {split: trainval}\nevaluation: {split: val}", "val is also trained on"),
    ("training: {split: trainaug+sbd}\nevaluation: {split: trainval}", "train is also trained on"),
    ("evaluation: {split: test}", r"evaluation.split \(for voc\): unknown split 'test'.*trainaug"),
]


@pytest.mark.parametrize(("text", "sentence"), SPLITS)
def test_joined_splits_share_images(text: str, sentence: str | None) -> None:
    content = TINY | {"datasets": ["voc"], "dataset_options": {}}
    content = reading.merge(content, yaml.safe_load(text))
    if sentence is None:
        reading.complete(content)
    else:
        with pytest.raises(UserError, match=sentence):
            reading.complete(content)


def test_a_model_is_trained_on_a_joined_split_and_scored(tmp_path: Path, tiny: dict) -> None:
    layouts.write_sbd(layouts.write_voc(tmp_path / "data"))
    settings = {"split": "trainaug", "crop": [16, 16]}
    config = tiny | {
        "datasets": ["voc"],
        "dataset_options": {"voc": {"root": str(tmp_path / "data"), "allow": ["absent_classes"]}},
        "training": tiny["training"] | settings,
        "evaluation": {"split": "val"},
    }
    config = reading.complete(config)
    prepare.prepare(plan.preparation(config, "voc"))
    (run,) = plan.runs(config)
    train.train(run.training, plan.execution(config))
    evaluate.evaluate(run, plan.execution(config))
    scores = Metrics.read(run)
    assert (scores.split, scores.images, len(scores.iou)) == ("val", 1, 21)
    benchmark = plan.benchmark(config)
    tabulate.tabulate(benchmark)
    assert benchmark.outputs.panel("voc", run.model).exists()
