"""Lists of images as people have them, and names that lead elsewhere."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from common.datasets.camvid import CamVid
from common.datasets.folder import Folder
from common.datasets.manifest import Manifest
from common.datasets.pascal_context import PascalContext
from common.datasets.voc import VOC
from common.errors import UnreadableRecord, UserError
from common.images.names import checked
from tests.common.datasets import layouts
from tests.common.datasets.prepared import CLASSES, prepare, stripes, write
from tests.synthetic import rewrite

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Überfahrt") for form in ("NFC", "NFD"))
FILES = ("a.png", "my image.png", "b, c.png", "IMG_0001.JPG", "city/d.png", "e.v2.png", "f", "g.PNG")


def data(root: Path, *files: str, suffix: str = ".png") -> Path:
    """Images of some names and their label maps, each with a value of its own."""
    for value, file in enumerate(files):
        path = Path(file)
        stem = path.with_suffix("") if path.suffix.lower() in (".png", ".jpg") else path
        layouts.picture(root / "images" / (file if file != "f" else "f.png"))
        layouts.save(root / "labels" / f"{stem}{suffix}", np.full(layouts.SIZE, value, np.uint8))
    return root


def folder(root: Path, text: str | bytes) -> Folder:
    """The data with a list of that text."""
    content = text.encode() if isinstance(text, str) else text
    (root / "train.txt").write_bytes(content)
    return Folder(str(root), [f"class {value}" for value in range(9)], splits=["train"])


def value(dataset: Folder, name: str) -> int:
    """The value of a label map of one value."""
    (only,) = np.unique(dataset.read("train", name)[1]).tolist()
    return only


LINES = [
    # a line, the name that it gives, which of FILES it means
    ("a", "a", 0),
    ("a.png", "a", 0),
    ("a.PNG", "a", 0),
    ("  a.png  ", "a", 0),
    ("images/a.png", "a", 0),
    ("/images/a.png", "a", 0),
    ("/a.png", "a", 0),
    ("./a.png", "a", 0),
    ("{root}/images/a.png", "a", 0),
    ('"a.png"', "a", 0),
    ("my image", "my image", 1),
    ("my image.png", "my image", 1),
    ('"my image.png"', "my image", 1),
    ("b, c", "b, c", 2),
    ("b, c.png", "b, c", 2),
    ("IMG_0001", "IMG_0001", 3),
    ("IMG_0001.JPG", "IMG_0001", 3),
    ("IMG_0001.jpg", "IMG_0001", 3),
    ("city/d", "city/d", 4),
    ("city\\d.png", "city/d", 4),
    ("images\\city\\d.png", "city/d", 4),
    ("e.v2", "e.v2", 5),
    ("e.v2.png", "e.v2", 5),
    ("f", "f", 6),
    ("g", "g", 7),
    ("g.png", "g", 7),
    ("images/a.png labels/a.png", "images/a", 0),
    ("images/a.png\tlabels/a.png", "images/a", 0),
    ("images/a.png,labels/a.png", "images/a", 0),
    ("images/a.png, labels/a.png", "images/a", 0),
    ("images/a.png   labels/a.png", "images/a", 0),
    ("/images/a.png /labels/a.png", "images/a", 0),
    ("{root}/images/a.png {root}/labels/a.png", "images/a", 0),
    ("images/a labels/a", "images/a", 0),
    ("images/a.PNG labels/a.PNG", "images/a", 0),
    ("images/my image.png labels/my image.png", "images/my image", 1),
    ("images/my image.png\tlabels/my image.png", "images/my image", 1),
    ('"images/my image.png","labels/my image.png"', "images/my image", 1),
    ('"images/b, c.png","labels/b, c.png"', "images/b, c", 2),
    ("images/b, c.png,labels/b, c.png", "images/b, c", 2),
    ("images/b, c.png\tlabels/b, c.png", "images/b, c", 2),
    ("images/IMG_0001.jpg labels/IMG_0001.png", "images/IMG_0001", 3),
    ("a.png labels/a.png", "a", 0),
    ("images/a.png labels/city/d.png", "images/a", 4),
]


@pytest.mark.parametrize(("line", "name", "expected"), LINES)
def test_lines_of_lists(tmp_path: Path, line: str, name: str, expected: int) -> None:
    dataset = folder(data(tmp_path, *FILES), line.replace("{root}", str(tmp_path)) + "\n")
    assert dataset.names("train") == [name]
    assert value(dataset, name) == expected


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8"),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode("utf-8"),
        lambda text: text.replace("\n", "\r").encode("utf-8"),
        lambda text: text.replace("\n", "\r\n").encode("utf-16"),
        lambda text: text.rstrip().encode("utf-8"),
        lambda text: ("\n\n" + text).encode("utf-8"),
    ],
)
@pytest.mark.parametrize("listed", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED])
def test_texts_of_lists_and_accents(tmp_path: Path, encode: object, listed: str, stored: str) -> None:
    data(tmp_path, "a.png", f"{stored}/{stored}.png")
    dataset = folder(tmp_path, encode(f"a\n{listed}/{listed}\n"))  # type: ignore[operator]
    assert dataset.names("train") == ["a", f"{COMPOSED}/{COMPOSED}"], "a name has one form"
    assert value(dataset, f"{COMPOSED}/{COMPOSED}") == 1


def test_a_list_of_other_letters_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.txt cannot be read as a text .*: save it in UTF-8"):
        folder(data(tmp_path, "a.png"), "Straße".encode("cp1252")).names("train")


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED])
def test_folders_without_lists_have_the_same_names(tmp_path: Path, stored: str, suffix: str) -> None:
    layouts.picture(tmp_path / "images/train" / f"{stored}.JPG")
    other = unicodedata.normalize("NFC" if stored == DECOMPOSED else "NFD", stored)
    layouts.save(tmp_path / "labels" / f"{other}{suffix}", stripes(0, 1))
    dataset = Folder(str(tmp_path), ["a", "b"], splits=["train"], images="images/{split}", lists=None)
    assert dataset.names("train") == [f"train/{COMPOSED}"]
    assert dataset.read("train", f"train/{COMPOSED}")[1].max() == 1


OUTSIDE = [
    "../secret", "../secret.png", "images/../../secret.png", "/../secret.png", "a/../../secret",
    "../images/a.png labels/a.png", "images/a.png ../labels/a.png", "..", "/", "..\\secret.png",
]  # fmt: skip


@pytest.mark.parametrize("line", OUTSIDE)
def test_a_name_stays_below_its_folder(tmp_path: Path, line: str) -> None:
    layouts.picture(tmp_path / "secret.png")
    root = data(tmp_path / "data", "a.png")
    with pytest.raises(
        UserError, match="train.txt, line 2: .* must be a name or path that stays below its folder"
    ):
        folder(root, f"a\n{line}\n").names("train")


@pytest.mark.parametrize("name", ["a\0b", "a\tb/c", "a\nb", "\x7f", "", ".", "..", "/x", "x/../y"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match="somewhere: "):
        checked(name, "somewhere")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\u0000"])
def test_a_manifest_with_names_that_lead_elsewhere_is_not_read(tmp_path: Path, name: str) -> None:
    manifest = prepare(write(tmp_path)).manifest
    assert manifest
    (path,) = (tmp_path / "results/datasets").glob("streets-??????????.json")
    rewrite(path, lambda content: content["splits"]["test"].update(names=[name]))
    with pytest.raises(UnreadableRecord, match="a name that is none .*delete it and run the prepare"):
        Manifest.read(path)


def test_published_data_sets_have_names_below_their_folders(tmp_path: Path, camvid: Path) -> None:
    voc = layouts.write_voc(tmp_path / "voc")
    context = layouts.write_context(tmp_path / "context")
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("../x\n")
    (context / "VOCdevkit/VOC2010/ImageSets/Main/train.txt").write_text("../x\n")
    (camvid / "train.txt").write_text("/a/../x.png /a/trainannot/x.png\n")
    for dataset in (VOC(str(voc), sbd=False), PascalContext(str(context)), CamVid(str(camvid))):
        with pytest.raises(UserError, match="must be a name or path that stays below its folder"):
            dataset.names("train")


MISSING = [
    ("aa", "images/aa.jpg is missing: named in {root}/train.txt, line 1; it was looked for in {root}/images, "
     "as aa with .jpg, .jpeg, .png, .bmp, .tif, .tiff, .webp, .ppm, .gif, .heic, .heif (the nearest "
     "name there is a.png)"),
    ("IMG_0002.JPG", "images/IMG_0002.JPG is missing: named in {root}/train.txt, line 1; it was looked for "
     "in {root}/images (the nearest name there is IMG_0001.JPG)"),
    ("city/dd", "(the nearest name there is d.png)"),
    ("images/a.png labels/aa.png", "labels/aa.png is missing: named in {root}/train.txt, line 1; it was "
     "looked for in {root} (the nearest name there is a.png)"),
    ("images/x.png labels/a.png", "images/x.png is missing"),
    ("x.png y.png", "x.png is missing: named in"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), MISSING)
def test_a_missing_file_says_what_was_tried_and_the_nearest_name(
    tmp_path: Path, line: str, sentence: str
) -> None:
    dataset = folder(data(tmp_path, *FILES), line)
    (name,) = dataset.names("train")
    with pytest.raises(UserError) as caught:
        dataset.read("train", name)
    assert sentence.replace("{root}", str(tmp_path)) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_came_later_is_read(tmp_path: Path) -> None:
    dataset = folder(data(tmp_path, "a.png"), "b")
    assert dataset.names("train") == ["b"]
    layouts.picture(tmp_path / "images/b.jpg")
    layouts.save(tmp_path / "labels/b.png", stripes(0, 1))
    assert dataset.read("train", "b")[0].shape == (*layouts.SIZE, 3)


def test_two_files_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    data(tmp_path, "a.png")
    for name in ("b.jpg", "b.JPG"):
        layouts.picture(tmp_path / "images" / name)
    assert folder(tmp_path, "b.JPG").names("train") == ["b"], "one is called exactly so"
    with pytest.raises(UserError, match=r"b.JPG and b.jpg could both be meant by b.Jpg: rename one"):
        folder(tmp_path, "b.Jpg").names("train")


def test_two_endings_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    """One of both may be a copy that somebody has drawn in; a label map beside its image is none."""
    dataset = folder(data(tmp_path, "a.png"), "a\n")
    layouts.picture(tmp_path / "images/a.jpg")
    with pytest.raises(UserError, match=r"a.jpg and a.png could both be meant by a: write its ending, too"):
        dataset.names("train")
    assert folder(tmp_path, "a.png\n").names("train") == ["a"]
    with pytest.raises(UserError, match=r"a.jpg and a.png could both be meant by images/a: write its ending"):
        folder(tmp_path, "images/a labels/a.png\n").names("train")
    (tmp_path / "images/a.jpg").rename(tmp_path / "images/a.tif")
    (tmp_path / "labels/a.png").replace(tmp_path / "images/a.png")
    (tmp_path / "train.txt").write_text("a\n")
    together = Folder(str(tmp_path), CLASSES, splits=["train"], labels="images")
    assert [path.name for path in together.files("train", "a")] == ["a.tif", "a.png"]


def test_folders_that_are_links_count(tmp_path: Path) -> None:
    """A name that is looked up leads through them; so they must be seen where all files are listed."""
    for split in ("train", "val"):
        data(tmp_path / split, "a.png", "city/d.png")
        data(tmp_path / f"elsewhere/{split}", "e.png")
        for kind in ("images", "labels"):
            (tmp_path / split / kind / "more").symlink_to(tmp_path / "elsewhere" / split / kind)
            (tmp_path / split / kind / "again").symlink_to(tmp_path / split / kind)  # a circle
    dataset = Folder(
        str(tmp_path), CLASSES, splits=["train"], images="{split}/images", labels="{split}/labels", lists=None
    )
    assert dataset.names("train") == ["train/a", "train/city/d", "train/more/e"]


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    data(tmp_path, "a.png")
    with pytest.raises(UserError) as caught:
        folder(tmp_path, "a\na.png\n../b\nx y z\n" + "u v w\n" * 4).names("train")
    for part in (
        "line 2: the image a is listed twice",
        "line 3: '../b'",
        "line 4: must name",
        "2 more lines",
    ):
        assert part in str(caught.value)


def test_prepare_says_all_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path)
    layouts.lines(tmp_path / "train.txt", ["a", "bb", "cc.png"])
    ending = prepare(tmp_path, class_names=CLASSES)
    assert ending.status == 2 and ending.errors.count("is missing: named in") == 2
    assert "dataset streets has 2 problems: mend them" in ending.errors


def test_images_are_matched_with_predictions_in_any_form(tmp_path: Path) -> None:
    from common.images.foreign_predictions import ForeignPredictions, PredictionReader

    layouts.save(tmp_path / f"{DECOMPOSED}.PNG", np.zeros(layouts.SIZE, np.uint8))
    reader = PredictionReader(ForeignPredictions(str(tmp_path)), CLASSES, (), False)
    assert reader.read("test", COMPOSED, layouts.SIZE).shape == layouts.SIZE
    with pytest.raises(UserError, match=r"is missing: .* named like the image \(the nearest name there is"):
        reader.read("test", f"{COMPOSED}2", layouts.SIZE)
    with pytest.raises(UserError, match="stays below its folder"):
        reader.read("test", "../x", layouts.SIZE)
    assert len(ForeignPredictions(str(tmp_path)).content_sha256(["test"])) == 64
