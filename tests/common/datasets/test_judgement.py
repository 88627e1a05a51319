"""What `prepare` says of data that can be read and is likely not meant so."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config import reading
from common.errors import UserError
from common.runs import plan
from common.stages import tabulate, train
from tests.common.datasets import layouts
from tests.common.datasets.prepared import CLASSES, call, label, prepare, stripes, write
from tests.conftest import TINY
from tests.synthetic import write_all

TWO = {"class_names": ["ground", "crack"]}
GREY = [part for value in range(256) for part in (value, value, value)]
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0]
REVERSED = [0, 128, 0, 128, 0, 0, 0, 0, 0]
COLOURS = {"colours": [[0, 0, 0], [128, 0, 0], [0, 128, 0]]}


def twin(source: str, target: str) -> Any:
    """Makes an image a copy of another's pixels, in a file of another kind."""

    def spoil(root: Path) -> None:
        (root / f"images/{target}.png").unlink()
        Image.open(root / f"images/{source}.png").save(root / f"images/{target}.tif")

    return spoil


def listed(*lines: str) -> Any:
    """Lists other images to train on."""
    return lambda root: layouts.lines(root / "train.txt", [*lines])


def linked(root: Path) -> None:
    """Gives an image the label map of another by a link."""
    (root / "labels/b.png").unlink()
    (root / "labels/b.png").symlink_to("a.png")


def turned_labels(root: Path) -> None:
    """Gives a label map an orientation, as a tool does that copies the data of the photograph."""
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(root / "labels/b.png").save(root / "labels/b.png", exif=exif)


def black(*stems: str) -> Any:
    """Makes images black."""

    def spoil(root: Path) -> None:
        for stem in stems:
            layouts.save(root / f"images/{stem}.png", np.zeros((*layouts.SIZE, 3), np.uint8))

    return spoil


def labels(stem: str, *values: int, palette: list[int] | None = None) -> Any:
    """Gives an image another label map."""
    return lambda root: label(root / f"labels/{stem}.png", *values, palette=palette)


def several(*spoils: Any) -> Any:
    """Does several things."""
    return lambda root: [spoil(root) for spoil in spoils]


def gifs(root: Path) -> None:
    """Saves all label maps as GIFs, which make a palette of grey."""
    for path in (root / "labels").glob("*.png"):
        Image.open(path).save(path.with_suffix(".gif"))


REFUSED: list[tuple[tuple[int, ...], Any, dict, str, str]] = [
    ((0, 255), None, TWO, "absent_classes",
     "the class crack has no pixel in train, which models are trained on: the label maps have only the "
     "values 0, 255, and 255 is void; if it is this class, set dataset_options.streets.values to [0, 255] "
     "and void to []"),
    ((0, 255), None, TWO, "single_class", "ground is the only class in val: the label maps have only"),
    ((0, 1, 255), None, {}, "absent_classes", "streets.values to [0, 1, 255] and void to []"),
    ((0, 255), None, {"class_names": ["crack"]}, "single_class",
     "there is only one class, crack, which every pixel must have: if 255 is a class, name both"),
    ((0, 1), None, {}, "absent_classes", "the class sky has no pixel in train, which models are"),
    ((0,), None, {}, "absent_classes", "the classes car and sky have no pixel in train"),
    ((0,), None, {}, "single_class", "road is the only class in val"),
    ((), labels("d", 255), {}, "void_splits", "all pixels of test are void: there is no class in it"),
    ((), labels("c", 9), {"void": [9]}, "void_splits", "all pixels of val are void"),
    ((255,), None, {}, "void_splits", "all pixels of train are void"),
    ((), labels("c", 2), {}, "single_class", "sky is the only class in val"),
    ((), twin("a", "d"), {}, "repeated_images",
     "the image d (as a) of test is pixel for pixel in train, too: remove one of each pair"),
    ((), several(twin("a", "c"), twin("a", "d")), {}, "repeated_images",
     "the image c (as a) of val is pixel for pixel in train"),
    ((), listed("images/a.png labels/a.png", "images/b.png labels/a.png"), {}, "shared_labels",
     "the image images/b (as images/a) of train is listed with the label map of another image"),
    ((), linked, {}, "shared_labels", "the image b (as a) of train is listed with the label map of another"),
    ((), several(labels("a", 0, 1, 2, palette=VOC), labels("b", 0, 1, 2, palette=GREY)), {}, "palettes",
     "labels/b.png gives car the colour (1, 1, 1) but "),
    ((), labels("a", 0, 1, 2, palette=REVERSED), COLOURS, "palettes",
     "labels/a.png gives road the colour (0, 128, 0) of sky, and label maps are read by index: save them in "
     "grey, or set dataset_options.streets.colour_coded to true, which reads them by the classes' colours"),
    ((), several(*(labels(s, 2, 1, 0, palette=REVERSED) for s in "abcd")), COLOURS, "palettes",
     "(and so do 3 more files)"),
    ((0, 2), gifs, {"label_suffix": ".gif", "class_names": ["a", "b", "c"]}, "palettes",
     "labels/a.gif shows b in the grey 2, which is the value of c, and label maps are read by index"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "spoil", "options", "finding", "sentence"), REFUSED)
def test_what_is_likely_a_mistake_is_refused_unless_it_is_allowed(
    tmp_path: Path, values: tuple[int, ...], spoil: Any, options: dict, finding: str, sentence: str
) -> None:
    write(tmp_path, *values)
    if spoil:
        spoil(tmp_path)
    refused = prepare(tmp_path, **options)
    assert refused.status == 2 and sentence in refused.errors and refused.manifest is None
    assert f"allow it by dataset_options.streets.allow: [{finding}]" in refused.errors
    everything = [
        *("absent_classes", "void_splits", "single_class"),
        *("repeated_images", "shared_labels", "palettes"),
    ]
    one_less = prepare(tmp_path, **options, allow=[name for name in everything if name != finding])
    assert one_less.status == 2 and sentence in one_less.errors, "the others do not allow it"
    allowed = prepare(tmp_path, **options, allow=everything)
    assert allowed.status == 0 and allowed.manifest and sentence.split(";")[0] in allowed.errors
    assert any(sentence.split(";")[0] in note for note in allowed.manifest.notes), "tables say it"


ACCEPTED: list[tuple[tuple[int, ...], Any, dict]] = [
    ((), None, {}),
    ((0, 1, 2, 255), None, {}),
    ((0, 255), None, TWO | {"values": [0, 255], "void": []}),
    ((0, 255), None, TWO | {"values": [0, 255]}),
    ((7, 26, 255), None, {"values": [7, 26, 255]}),
    ((7, 26, 23, 0), None, {"values": [7, 26, 23], "void": [0]}),
    ((0, 1, 2), several(*(labels(s, 0, 1, 2, palette=VOC) for s in "abcd")), {}),
    ((0, 1, 2), several(*(labels(s, 0, 1, 2, palette=VOC) for s in "ab")), COLOURS),
    ((0, 1, 2), several(*(labels(s, 0, 1, 2, palette=REVERSED) for s in "abcd")),
     COLOURS | {"colour_coded": True}),
    ((0, 1, 2), labels("a", 0, 1, 2, palette=[1, 2, 3, 4, 5, 6, 7, 8, 9]), COLOURS),
    ((0, 1, 2), labels("c", 0, 1), {}),
    ((0, 1, 2), gifs, {"label_suffix": ".gif"}),
    ((0, 1), several(*(labels(s, 0, 1, palette=[0, 0, 0, 255, 255, 255]) for s in "abcd")), TWO),
]  # fmt: skip


@pytest.mark.parametrize(("values", "spoil", "options"), ACCEPTED)
def test_what_is_right_is_accepted_in_silence(
    tmp_path: Path, values: tuple[int, ...], spoil: Any, options: dict
) -> None:
    write(tmp_path, *values)
    if "colour_coded" in options:
        write(tmp_path, 0, 1, 2, palette=VOC)
    if spoil:
        spoil(tmp_path)
    ending = prepare(tmp_path, **options)
    assert (ending.status, ending.errors) == (0, "")
    assert ending.manifest and ending.manifest.notes == []


def test_the_values_255_and_0_are_two_classes_where_values_says_so(tmp_path: Path) -> None:
    ending = prepare(write(tmp_path, 0, 255), **TWO, values=[0, 255])
    assert ending.manifest
    pixels = layouts.SIZE[0] * layouts.SIZE[1]
    assert ending.manifest.splits["train"].pixels == {"ground": pixels, "crack": pixels}
    assert ending.manifest.splits["train"].void_pixels == 0


@pytest.mark.parametrize("options", [{"values": [0, 1, 2]}, {"void": []}, {"void": [7]}])
def test_255_is_void_only_where_it_is_by_default_or_listed(tmp_path: Path, options: dict) -> None:
    ending = prepare(write(tmp_path, 0, 1, 2, 255), **options)
    assert ending.status == 2 and "has the labels [255]: only 0–2" in ending.errors


NOTED: list[tuple[Any, str]] = [
    (twin("a", "b"), "the image b (as a) of train is there twice, pixel for pixel"),
    (black("a", "b"), "every image of train has one colour only: is it what it should be?"),
    (black("b"), "the image b of train is of one colour only"),
    (
        turned_labels,
        "the image b of train is labelled by a map that is turned as its own EXIF data say: look",
    ),
]


@pytest.mark.parametrize(("spoil", "sentence"), NOTED)
def test_what_may_be_right_is_noted(tmp_path: Path, spoil: Any, sentence: str) -> None:
    spoil(write(tmp_path))
    ending = prepare(tmp_path)
    assert ending.status == 0 and f"structseg: dataset streets: {sentence}" in ending.errors
    assert ending.manifest and any(sentence in note for note in ending.manifest.notes)


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 255)
    twin("a", "d")(tmp_path)
    (tmp_path / "images/b.png").write_bytes(b"?")
    layouts.lines(tmp_path / "test.txt", ["d", "lost"])
    ending = prepare(tmp_path, **TWO)
    for part in (
        "images/b.png cannot be read", "lost.jpg is missing", "the image d (as a) of test is pixel for pixel",
        "no pixel in train (1 images of which cannot be read)", "ground is the only class in val",
        "dataset streets has 6 problems",
    ):  # fmt: skip
        assert part in ending.errors
    assert "Traceback" not in ending.errors and ending.status == 2


def test_a_picture_is_not_its_own_label_map(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, palette=VOC)
    listed("labels/a.png labels/a.png")(tmp_path)
    ending = prepare(tmp_path)
    assert ending.status == 2 and "labels/a.png is both image and label map: name two files" in ending.errors


@pytest.mark.parametrize(("split", "status"), [("train", 2), ("train+val", 0), ("val", 0), ("trainval", 0)])
def test_classes_must_be_in_what_is_trained_on(tmp_path: Path, split: str, status: int) -> None:
    write(tmp_path, 0, 1)
    labels("c", 0, 1, 2)(tmp_path)
    ending = prepare(tmp_path, training={"split": split})
    assert ending.status == status
    if status:
        assert f"the class sky has no pixel in {split}" in ending.errors


def test_a_training_looks_again_as_its_split_may_be_another(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    labels("c", 0, 1, 2)(tmp_path)
    options = {"module": "folder", "root": str(tmp_path), "class_names": CLASSES}
    config = TINY | {"datasets": ["streets"], "dataset_options": {"streets": options}}
    config |= {"results": str(tmp_path / "results")}
    assert prepare(tmp_path, training={"split": "val"}).status == 0
    (run,) = plan.runs(reading.complete(config))
    with pytest.raises(UserError, match=r"the class sky has no pixel in train, .*allow: \[absent_classes\]"):
        train.train(run.training, plan.execution(reading.complete(config)))


@pytest.mark.parametrize(
    ("allow", "sentence"),
    [
        (["absent_class"], r"allow: unknown finding 'absent_class' \(did you mean absent_classes\?\)"),
        ("palettes", "allow"),
        ([3], "allow"),
    ],
)
def test_only_findings_can_be_allowed(tmp_path: Path, allow: Any, sentence: str) -> None:
    options = {"streets": {"module": "folder", "root": "/x", "class_names": CLASSES, "allow": allow}}
    with pytest.raises(UserError, match=rf"dataset_options.streets.*{sentence}"):
        reading.complete(TINY | {"datasets": ["streets"], "dataset_options": options})


def test_to_allow_something_is_no_other_dataset(tmp_path: Path) -> None:
    def digest(**options: Any) -> str:
        content = {"module": "folder", "root": "/x", "class_names": CLASSES} | options
        config = TINY | {"datasets": ["streets"], "dataset_options": {"streets": content}}
        return plan.preparation(reading.complete(config), "streets").digest

    assert digest() == digest(allow=["palettes"]) != digest(turn_labels=True)


def test_tables_note_classes_that_are_absent(tmp_path: Path) -> None:
    write(tmp_path)
    labels("d", 0, 1)(tmp_path)
    black("b")(tmp_path)
    options = {"module": "folder", "root": str(tmp_path), "class_names": CLASSES}
    config = TINY | {"datasets": ["streets"], "dataset_options": {"streets": options}}
    benchmark = plan.benchmark(reading.complete(config | {"results": str(tmp_path / "results")}))
    assert prepare(tmp_path).status == 0
    write_all(benchmark)
    with suppress(UserError):  # made-up results are of other images
        tabulate.tabulate(benchmark)
    text = (tmp_path / "results/leaderboard.md").read_text()
    assert "streets: the class sky has no pixel in test, which is scored." in text
    assert "streets: the image b of train is of one colour only." in text
    benchmark.groups[0].data.path.unlink()
    with suppress(UserError):  # a run without its manifest
        tabulate.tabulate(benchmark)
    assert "the class sky" not in (tmp_path / "results/leaderboard.md").read_text()


def test_the_real_digits_have_nothing_to_note(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"datasets: [digits]\nresults: {tmp_path}/results\n")
    assert call("prepare", "--configfile", str(file), "--dataset", "digits") == (0, "")


def test_stripes_have_as_much_of_every_value() -> None:
    assert np.unique(stripes(0, 1, 2), return_counts=True)[1].tolist() == [64, 64, 64]
