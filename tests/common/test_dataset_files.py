"""Datasets in files: every layout that they are published in, and what is odd in each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Cityscapes as Table

from common import config as configuration
from common import evaluate, prepare, runs, tabulate, train
from common.datasets import load, names
from common.datasets.camvid import CamVid, split_of
from common.datasets.cityscapes import LAST_ID, TRAINED, Cityscapes
from common.datasets.files import FileDataset, voc_colours
from common.datasets.folder import Folder
from common.datasets.loading import Split
from common.datasets.pascal_context import PascalContext
from common.datasets.voc import VOC
from common.errors import UserError
from common.files import read_json
from tests.common import layouts
from tests.conftest import TINY


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what the tests write."""
    for variable in ("VOC_ROOT", "SBD_ROOT", "CITYSCAPES_ROOT", "PASCAL_CONTEXT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "nowhere"))


def read_all(dataset: FileDataset, split: str) -> dict[str, np.ndarray]:
    return {name: dataset.read(split, name)[1] for name in dataset.names(split)}


# PASCAL VOC


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
    manifest, _ = prepare.inspect(dataset, "voc")
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
    prepare.inspect(dataset, "voc")


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


# Cityscapes


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes_by_either_kind_of_ids(tmp_path: Path, train_ids: bool) -> None:
    dataset = Cityscapes(str(layouts.write_cityscapes(tmp_path, train_ids)))
    assert dataset.splits == ("train", "val")
    assert dataset.names("train") == ["aachen_000000_000019", "ulm_000000_000019"]
    _, labels = dataset.read("val", "lindau_000000_000019")
    assert np.array_equal(labels, np.resize(np.array(list(layouts.IDS.values()), np.uint8), layouts.SIZE))


def test_the_classes_of_cityscapes() -> None:
    """As torchvision has them."""
    table = {known.train_id: known for known in Table.classes if 0 <= known.train_id < 255}
    ours = [(name, *rest) for name, rest in TRAINED.items()]
    assert ours == [(known.name, known.id, known.color) for _, known in sorted(table.items())]
    assert max(known.id for known in Table.classes) == LAST_ID


def test_the_test_split_of_cityscapes_is_void(tmp_path: Path) -> None:
    dataset = Cityscapes(str(layouts.write_cityscapes(tmp_path)), test=True)
    assert (dataset.read("test", "berlin_000000_000019")[1] == 255).all()


def test_a_split_without_labels_cannot_be_scored(tmp_path: Path, tiny: dict) -> None:
    options = {"cityscapes": {"root": str(layouts.write_cityscapes(tmp_path / "data")), "test": True}}
    config = configuration.complete(tiny | {"datasets": ["cityscapes"], "dataset_options": options})
    prepare.prepare(config, "cityscapes")
    with pytest.raises(UserError, match=r"evaluation.split \(for cityscapes\): test has no labelled pixel"):
        evaluate.evaluate(config, runs.runs(config)[0])


def test_what_cityscapes_lacks_is_one_sentence(tmp_path: Path) -> None:
    root = layouts.write_cityscapes(tmp_path)
    (root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match="labelIds.png is missing, and .*labelTrainIds.png beside it too"):
        Cityscapes(str(root)).read("train", "ulm_000000_000019")
    layouts.save(
        root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
        np.full(layouts.SIZE, 34, np.uint8),
    )
    with pytest.raises(UserError, match=r"has the labels \[34\]"):
        Cityscapes(str(root)).read("train", "ulm_000000_000019")
    (root / "gtFine/val").rename(root / "gtFine/away")
    with pytest.raises(UserError, match="gtFine/val is missing: CITYSCAPES_ROOT or dataset_options"):
        Cityscapes(str(root)).names("val")


# PASCAL-Context


@pytest.mark.parametrize("masks", ["59_context_labels", "SegmentationClassContext"])
def test_pascal_context_has_59_classes_and_void(tmp_path: Path, masks: str) -> None:
    dataset = PascalContext(str(layouts.write_context(tmp_path, masks)), masks=masks)
    assert (dataset.names("train"), dataset.names("val")) == (["2008_000000"], ["2008_000001"])
    _, labels = dataset.read("train", "2008_000000")
    values = np.resize(np.arange(60), layouts.SIZE)
    assert np.array_equal(labels, np.where(values == 0, 255, values - 1))
    assert len({*dataset.class_names}) == len({*dataset.colours}) == 59


def test_the_masks_say_how_the_classes_are_numbered() -> None:
    ours, theirs = PascalContext(), PascalContext(masks="SegmentationClassContext")
    assert ours.class_names[:2] == ("aeroplane", "bicycle")
    assert theirs.class_names[:3] == ("aeroplane", "bag", "bed")
    assert {*ours.class_names} == {*theirs.class_names}
    assert dict(zip(ours.class_names, ours.colours)) == dict(zip(theirs.class_names, theirs.colours))


def test_lists_of_mmsegmentation_are_taken_where_there_are_any(tmp_path: Path) -> None:
    root = layouts.write_context(tmp_path, "SegmentationClassContext")
    lists = root / "VOCdevkit/VOC2010/ImageSets/SegmentationContext"
    layouts.lines(lists / "train.txt", ["2008_000001"])
    dataset = PascalContext(str(root), masks="SegmentationClassContext")
    assert dataset.names("train") == ["2008_000001"]


# CamVid


def test_camvid_at_its_original_size(tmp_path: Path) -> None:
    dataset = CamVid(str(layouts.write_original_camvid(tmp_path)), layout="original")
    for split, frames in layouts.FRAMES.items():
        assert dataset.names(split) == sorted(frames)
    _, labels = dataset.read("val", "0016E5_07959")
    by_colour = dict(zip(layouts.COLOURS, labels.ravel().tolist()))
    assert len(by_colour) == 32
    assert by_colour[0, 0, 0] == 255
    names = {colour: CamVid.class_names[label] for colour, label in by_colour.items() if label != 255}
    assert names[64, 128, 192] == "Car", "a pickup truck"
    assert names[128, 0, 192] == "Road", "a lane marking"
    assert names[192, 0, 192] == "Bicyclist", "a motorcycle"
    assert {*names.values()} == {*CamVid.class_names}


def test_colours_that_are_none_of_the_32(tmp_path: Path) -> None:
    root = layouts.write_original_camvid(tmp_path)
    drawn = np.full((*layouts.SIZE, 3), 128, np.uint8)
    drawn[0, :3] = (1, 2, 3)
    layouts.save(root / "LabeledApproved_full/0016E5_07959_L.png", drawn)
    with pytest.raises(UserError, match=r"the colours \(1, 2, 3\) \(3 pixels\), which are no class: .*void"):
        CamVid(str(root), layout="original").read("val", "0016E5_07959")
    lenient = CamVid(str(root), layout="original", unknown_colours="void")
    _, labels = lenient.read("val", "0016E5_07959")
    assert (labels[0, :3] == 255).all() and (labels == 0).sum() == labels.size - 3


def test_void_may_be_a_class_as_in_the_code_of_rmi(tmp_path: Path) -> None:
    root = str(layouts.write_original_camvid(tmp_path))
    dataset = CamVid(root, layout="original", void_as_class=True)
    assert (len(dataset.class_names), len(dataset.colours)) == (12, 12)
    assert (dataset.read("val", "0016E5_07959")[1].ravel()[:1] == 11).all()


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_splits_are_whole_stretches_of_video() -> None:
    dataset = CamVid()
    for split in dataset.splits:
        assert {split_of(name) for name in dataset.names(split)} == {split}


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_real_camvid_with_void_as_a_class() -> None:
    name = CamVid().names("val")[0]
    eleven, twelve = (CamVid(void_as_class=flag).read("val", name)[1] for flag in (False, True))
    assert np.array_equal(eleven == 255, twelve == 11)
    assert np.array_equal(eleven[eleven != 255], twelve[eleven != 255])


# Your own


def write_folder(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        stems = [f"{split}{index}" for index in range(count)]
        for index, stem in enumerate(stems):
            picture = root / "images" / f"{stem}.jpg"
            layouts.picture(picture, index)
            layouts.save(root / "labels" / f"{stem}.png", np.full(layouts.SIZE, index, np.uint8))
        layouts.lines(root / f"{split}.txt", stems)
    return root


def test_a_folder_needs_a_root_and_the_classes(tmp_path: Path) -> None:
    dataset = Folder(str(write_folder(tmp_path)), ["road", "car", "sky"])
    assert dataset.names("train") == ["train0", "train1", "train2"]
    assert (dataset.read("train", "train2")[1] == 2).all()
    content, _ = prepare.inspect(dataset, "streets")
    assert content["class_names"] == ["road", "car", "sky"]
    pixels = layouts.SIZE[0] * layouts.SIZE[1]
    assert content["splits"]["train"]["pixels"] == {"road": pixels, "car": pixels, "sky": pixels}


def test_a_folder_by_configuration_alone(tmp_path: Path) -> None:
    options = {"module": "folder", "root": str(write_folder(tmp_path)), "class_names": ["a", "b", "c"]}
    config = configuration.complete(TINY | {"datasets": ["mine"], "dataset_options": {"mine": options}})
    assert configuration.dataset(config, "mine").names("val") == ["val0", "val1"]
    before = runs.manifest(config, "mine").path
    config["dataset_options"]["mine"]["root"] = str(write_folder(tmp_path / "other"))
    assert runs.manifest(config, "mine").path != before, "another root may be other data"


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (["train1.jpg"], {}),
        (["images/train1.jpg labels/train1.png"], {}),
        (["", "train1", ""], {"lists": "lists/{split}.lst"}),
    ],
)
def test_forms_of_lists(tmp_path: Path, lines: list[str], options: dict) -> None:
    root = write_folder(tmp_path)
    layouts.lines(root / options.get("lists", "{split}.txt").replace("{split}", "train"), lines)
    dataset = Folder(str(root), ["a", "b", "c"], **options)
    (name,) = dataset.names("train")
    assert (dataset.read("train", name)[1] == 1).all()


def test_a_folder_per_split_needs_no_lists(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        for place in ("a", "b"):
            layouts.picture(tmp_path / "images" / split / place / "0.JPG")
            path = tmp_path / "annotations" / split / place / "0_seg.png"
            layouts.save(path, np.full(layouts.SIZE, 7, np.uint8))
    dataset = Folder(
        str(tmp_path), ["thing"], splits=["training", "validation"], images="images/{split}",
        labels="annotations/{split}", lists=None, label_suffix="_seg.png", values=[7], void=[0],
    )  # fmt: skip
    assert dataset.names("training") == ["training/a/0", "training/b/0"], "one of each name in all splits"
    assert (dataset.read("validation", "validation/a/0")[1] == 0).all()
    prepare.inspect(dataset, "x")


def test_label_maps_in_colours(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    drawn = np.zeros((*layouts.SIZE, 3), np.uint8)
    drawn[:4], drawn[4:8] = (10, 20, 30), (40, 50, 60)
    layouts.save(root / "labels/train0.png", drawn)
    given = {"colours": [[40, 50, 60], [10, 20, 30]], "colour_coded": True}
    dataset = Folder(str(root), ["a", "b"], **given, void_colours=[[0, 0, 0]])
    _, labels = dataset.read("train", "train0")
    assert labels[:, 0].tolist() == [1] * 4 + [0] * 4 + [255] * 4
    with pytest.raises(UserError, match=r"colours \(0, 0, 0\) \(64 pixels\).*void_colours"):
        Folder(str(root), ["a", "b"], **given).read("train", "train0")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_names": []}, "class_names must be 1 to 255 names, not 0"),
        ({"class_names": ["a", "a"]}, "class_names must all differ"),
        ({"colours": [[0, 0, 0]]}, "colours must be one per class, 2, not 1"),
        (
            {"colours": [[0, 0, 0], [0, 0, 256]]},
            r"a colour must be three numbers from 0 to 255, not \[0, 0, 256\]",
        ),
        ({"values": [1]}, "values must be one per class, 2, not 1"),
        ({"values": [1, 255]}, "values and void must be different numbers"),
        ({"lists": None}, r"without lists, images must have \{split\} in it"),
        ({"splits": ["train+val"]}, r"splits must be names without \+"),
        ({"splits": [], "lists": "x"}, "splits must be names"),
        ({"colour_coded": True}, "colour_coded needs colours"),
        ({"colour_coded": True, "colours": [[0, 0, 0], [0, 0, 0]]}, "must all differ"),
        ({"rooot": "x"}, r"unknown option 'rooot' \(did you mean root\?\)"),
        ({"class_names": "ab"}, r"class_names: 'ab' is not of type Sequence\[str\]"),
        ({"root": None}, "root: None is not of type str"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict, sentence: str) -> None:
    given = {"module": "folder", "root": "/x", "class_names": ["a", "b"]} | options
    with pytest.raises(UserError, match=rf"dataset_options.mine.*{sentence}"):
        configuration.complete(TINY | {"dataset_options": {"mine": given}})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda root: (root / "train.txt").unlink(),
            "train.txt is missing: dataset_options.folder.root must be",
        ),
        (lambda root: (root / "train.txt").write_text(" \n"), "train.txt lists no images"),
        (
            lambda root: (root / "train.txt").write_text("a b c\n"),
            "train.txt, line 1: must name an image, or",
        ),
        (lambda root: (root / "train.txt").write_text("x\nx.jpg\n"), "line 2: the image x is listed twice"),
        (lambda root: (root / "images/train1.jpg").unlink(), "images/train1.jpg is missing"),
        (lambda root: (root / "labels/train1.png").unlink(), "labels/train1.png is missing"),
        (
            lambda root: layouts.save(root / "labels/train1.png", np.full(layouts.SIZE, 5, np.uint8)),
            r"has the labels \[5\]: only 0–2 and 255 for void are legal",
        ),
        (
            lambda root: layouts.save(root / "labels/train1.png", np.full(layouts.SIZE, 300, np.uint16)),
            "has values from 300 to 300: labels are 0–255",
        ),
    ],
)
def test_bad_files_of_a_folder_are_one_sentence(tmp_path: Path, damage: Callable, sentence: str) -> None:
    root = write_folder(tmp_path)
    damage(root)
    with pytest.raises(UserError, match=sentence) as caught:
        prepare.inspect(Folder(str(root), ["a", "b", "c"]), "mine")
    assert "\n" not in str(caught.value)


def test_labels_of_16_bits_are_read_where_they_fit(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    layouts.save(root / "labels/train0.png", np.full(layouts.SIZE, 2, np.uint16))
    assert (Folder(str(root), ["a", "b", "c"]).read("train", "train0")[1] == 2).all()


# All of them


def test_statistics_of_the_colours(tmp_path: Path) -> None:
    dataset = Folder(str(write_folder(tmp_path)), ["a", "b", "c"])
    train = prepare.inspect(dataset, "x")[0]["splits"]["train"]
    pixels = (
        np.concatenate([dataset.read("train", n)[0].reshape(-1, 3) for n in dataset.names("train")]) / 255
    )
    assert np.allclose(train["colour_mean"], pixels.mean(axis=0), atol=1e-6)
    assert np.allclose(train["colour_std"], pixels.std(axis=0), atol=1e-6)
    assert train["images_with"] == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("name", ["voc", "cityscapes", "pascal_context", "camvid"])
def test_a_wrong_root_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = load(name)
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    with pytest.raises(
        UserError, match=rf"there is no folder .*nowhere/{name}: .*data_{name}.*{kind.environment}"
    ):
        kind().names("train")
    monkeypatch.setenv(kind.environment, str(tmp_path))
    with pytest.raises(
        UserError, match=rf"is missing: {kind.environment} or dataset_options.{name}.root must be"
    ):
        kind().names("train")


@pytest.mark.parametrize("name", sorted(set(names()) - {"folder"}))
def test_every_class_has_a_name_and_a_colour(name: str) -> None:
    dataset = load(name)()
    assert len(dataset.class_names) == len(dataset.colours) == len({*dataset.class_names})


SPLITS = [
    ("training: {split: trainaug}\nevaluation: {split: val}", None),
    ("training: {split: trainval}\nevaluation: {split: val}", "val is also trained on"),
    ("training: {split: trainaug+sbd}\nevaluation: {split: trainval}", "train is also trained on"),
    ("evaluation: {split: test}", r"evaluation.split \(for voc\): unknown split 'test'.*trainaug"),
]


@pytest.mark.parametrize(("text", "sentence"), SPLITS)
def test_joined_splits_share_images(text: str, sentence: str | None) -> None:
    content = TINY | {"datasets": ["voc"], "dataset_options": {}}
    content = configuration.merge(content, yaml.safe_load(text))
    if sentence is None:
        configuration.complete(content)
    else:
        with pytest.raises(UserError, match=sentence):
            configuration.complete(content)


def test_images_of_different_sizes_need_a_crop(tmp_path: Path, tiny: dict) -> None:
    root = write_folder(tmp_path / "data")
    layouts.picture(root / "images/train1.jpg", size=(24, 32))
    layouts.save(root / "labels/train1.png", np.zeros((24, 32), np.uint8))
    options = {"mine": {"module": "folder", "root": str(root), "class_names": ["a", "b", "c"]}}
    config = configuration.complete(tiny | {"datasets": ["mine"], "dataset_options": options})
    prepare.prepare(config, "mine")
    with pytest.raises(UserError, match=r"training.crop \(for mine\): the images have different sizes"):
        train.train(config, runs.runs(config)[0].training)


def test_a_model_is_trained_on_a_joined_split_and_scored(tmp_path: Path, tiny: dict) -> None:
    layouts.write_sbd(layouts.write_voc(tmp_path / "data"))
    settings = {"split": "trainaug", "crop": [16, 16]}
    config = tiny | {
        "datasets": ["voc"],
        "dataset_options": {"voc": {"root": str(tmp_path / "data")}},
        "training": tiny["training"] | settings,
        "evaluation": {"split": "val"},
    }
    config = configuration.complete(config)
    prepare.prepare(config, "voc")
    (run,) = runs.runs(config)
    train.train(config, run.training)
    evaluate.evaluate(config, run)
    scores = read_json(run.metrics)
    assert (scores["split"], scores["images"], len(scores["iou"])) == ("val", 1, 21)
    tabulate.tabulate(config)
    assert runs.panel(config, "voc", run.model).exists()
