"""Data that change after `prepare`: noticed by whoever reads them, with the file's name and what to do."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.manifest import Manifest
from tests.common.datasets import layouts, prepared
from tests.common.datasets.prepared import Spoil, call
from tests.synthetic import rewrite

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Four images in three splits, prepared: `train` has a and b, `val` c, `test` d."""
    assert prepared.prepare(prepared.write(tmp_path)).status == 0
    return tmp_path


def score(root: Path) -> tuple[int, str]:
    """`python -m common controls`, which reads the split `test`."""
    return call(
        "controls", "--configfile", str(root / "config.yaml"), "--dataset", "streets", "--model", MODEL
    )


def one_pixel(name: str) -> Spoil:
    """Changes one pixel of a picture."""

    def change(root: Path) -> None:
        with Image.open(root / name) as picture:
            pixels = np.array(picture)
        pixels[0, 0] = (pixels[0, 0] + 1) % 3
        Image.fromarray(pixels).save(root / name)

    return change


def saved_anew(root: Path) -> None:
    """The same pixels in another file."""
    with Image.open(root / "images/d.png") as picture:
        pixels = np.array(picture)
    Image.fromarray(pixels).save(root / "images/d.png", compress_level=0)


def copied(source: str, target: str) -> Spoil:
    """Puts one file in the place of another."""
    return lambda root: shutil.copy(root / source, root / target)


def listed(*lines: str, split: str = "test") -> Spoil:
    """Another list of a split."""
    return lambda root: layouts.lines(root / f"{split}.txt", [*lines])


def of_another_split(root: Path) -> None:
    """An image that moved from `val` to `test`, whose file stays where it is."""
    layouts.lines(root / "val.txt", ["b"])
    layouts.lines(root / "test.txt", ["d", "c"])


def resized(root: Path) -> None:
    """A larger image with its labels."""
    layouts.picture(root / "images/d.png", (24, 16))
    Image.fromarray(np.zeros((24, 16), np.uint8)).save(root / "labels/d.png")


def other_ending(root: Path) -> None:
    """A photograph in the place of a picture without losses."""
    with Image.open(root / "images/d.png") as picture:
        picture.save(root / "images/d.jpg")
    (root / "images/d.png").unlink()


CHANGES: list[tuple[Spoil, str]] = [
    (one_pixel("images/d.png"), r"images/d\.png changed since streets was prepared: restore the data, or"),
    (one_pixel("labels/d.png"), r"labels/d\.png changed since streets was prepared: restore the data, or"),
    (saved_anew, r"images/d\.png changed since"),
    (copied("images/a.png", "images/d.png"), r"images/d\.png changed since"),
    (copied("images/b.png", "images/d.png"), r"images/d\.png changed since"),
    (resized, r"images/d\.png and .*labels/d\.png changed since"),
    (other_ending, r"images/d\.jpg changed since"),
    (lambda root: prepared.label(root / "labels/d.png", 0), r"labels/d\.png changed since"),
    (lambda root: prepared.label(root / "labels/d.png", 2, 1, 0), r"labels/d\.png changed since"),
    (
        lambda root: prepared.label(root / "labels/d.png", 0, 1, 2, palette=[0, 0, 0, 9, 9, 9, 8, 8, 8]),
        r"labels/d\.png changed since",
    ),
    (lambda root: (root / "images/d.png").write_bytes(b""), r"images/d\.png .*it is empty"),
    (lambda root: (root / "labels/d.png").unlink(), r"labels/d\.png is missing"),
    (
        lambda root: (root / "images/d.png").write_bytes((root / "images/d.png").read_bytes()[:-30]),
        r"images/d\.png",
    ),
    (
        lambda root: (root / "images/d.png").write_bytes((root / "images/d.png").read_bytes() + b"\0"),
        r"images/d\.png changed since",
    ),
    (listed("d", "a"), r"the images of test changed since it was prepared \(1 more, such as a\): restore"),
    (listed("a"), r"images of test changed .*\(1 more, such as a; 1 fewer, such as d\)"),
    (of_another_split, r"images of test changed .*\(1 more, such as c\)"),
    (listed("images/a.png labels/d.png"), r"images of test changed .*\(1 more, such as"),
    (listed("images/d.png labels/d.png"), "images of test changed"),  # which gives other names
    (lambda root: (root / "test.txt").write_text(""), "test.txt lists no images"),
    (lambda root: (root / "test.txt").unlink(), "test.txt is missing"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_what_changed_ends_a_stage_that_reads_it(change: Spoil, sentence: str, streets: Path) -> None:
    change(streets)
    status, errors = score(streets)
    assert status == 2 and errors.count("\n") == 1 and "Traceback" not in errors
    assert re.search(sentence, errors), errors
    assert not list((streets / "results/controls").rglob("metrics.json"))


UNCHANGED: list[Spoil] = [
    lambda root: os.utime(root / "images/d.png"),
    lambda root: listed("", "  d  ", "")(root),
    lambda root: listed("d.png")(root),
    lambda root: (root / "test.txt").write_bytes("d\r\n".encode("utf-16")),
    lambda root: one_pixel("images/a.png")(root),  # which this stage does not read
    lambda root: layouts.picture(root / "images/e.png"),  # which no list names
]


@pytest.mark.parametrize("change", UNCHANGED)
def test_what_means_the_same_is_no_change(change: Spoil, streets: Path) -> None:
    change(streets)
    assert score(streets) == (0, "")


def test_training_notices_what_changed(streets: Path) -> None:
    one_pixel("labels/b.png")(streets)
    names = ("--model", MODEL, "--method", "ce", "--seed", "0", "--threads", "1")
    status, errors = call(
        "train", "--configfile", str(streets / "config.yaml"), "--dataset", "streets", *names
    )
    assert status == 2 and "labels/b.png changed since streets was prepared: restore" in errors


def test_the_order_of_a_list_is_part_of_it(tmp_path: Path) -> None:
    root = prepared.write(tmp_path)
    layouts.picture(root / "images/e.png")
    prepared.label(root / "labels/e.png", 0, 1, 2)
    layouts.lines(root / "test.txt", ["d", "e"])
    assert prepared.prepare(root).status == 0
    layouts.lines(root / "test.txt", ["e", "d"])
    status, errors = score(root)
    assert status == 2 and "the images of test changed since it was prepared (they are in another" in errors


def test_the_content_tells_one_split_from_another(tmp_path: Path) -> None:
    """The same images in the same order, but one of them in another split."""
    contents = set()
    for name, train, val in (("one", ["a", "b"], ["c"]), ("two", ["a"], ["b", "c"])):
        root = tmp_path / name
        prepared.write(tmp_path / "data")
        shutil.copytree(tmp_path / "data", root)
        layouts.lines(root / "train.txt", train)
        layouts.lines(root / "val.txt", val)
        manifest = prepared.prepare(root).manifest
        assert manifest
        contents.add(manifest.content_sha256)
    assert len(contents) == 2


def test_a_manifest_without_fingerprints_is_made_again(streets: Path) -> None:
    (path,) = (streets / "results/datasets").glob("*.json")
    rewrite(path, lambda content: [split.update(fingerprints=[]) for split in content["splits"].values()])
    status, errors = score(streets)
    assert status == 2 and "has no fingerprint of every image in train" in errors
    assert prepared.prepare(streets).status == 0
    assert score(streets) == (0, "")


def test_a_manifest_has_size_and_digest_of_every_file(streets: Path) -> None:
    (path,) = (streets / "results/datasets").glob("*.json")
    (line,) = Manifest.read(path).splits["test"].fingerprints
    image, labels = line.split()
    for entry, name in ((image, "images/d.png"), (labels, "labels/d.png")):
        size, _, digits = entry.partition("-")
        assert int(size) == (streets / name).stat().st_size and len(digits) == 16
