"""What a prediction wrote belongs to what it read; what was written by one is no input of another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.entries import Config
from common.errors import UserError
from common.files import locked
from common.images import pictures
from common.prediction.folder import PredictionFolder
from common.prediction.inputs import SUBMISSION, is_output
from common.prediction.origins import Origins
from common.prediction.pictures import Tally, predict
from tests.common.prediction.conftest import CPU, scored, stored
from tests.conftest import ROOT, run


def predicted(config: Config, images: Path, output: Path) -> Tally:
    found = pictures.find([images], leave_out=is_output)
    return predict(stored(config, "ce"), found, PredictionFolder(output), CPU)


@pytest.fixture
def second(images: Path, tmp_path: Path) -> Path:
    """Other pictures of the same names."""
    folder = tmp_path / "second"
    folder.mkdir()
    for path in images.iterdir():
        Image.fromarray(255 - np.array(Image.open(path))).save(folder / path.name)
    return folder


def test_pictures_of_the_same_names_are_refused(
    config: Config, images: Path, second: Path, tmp_path: Path
) -> None:
    predicted(config, images, tmp_path / "out")
    kept = {path: path.read_bytes() for path in (tmp_path / "out/labels").iterdir()}
    sentence = r"out has the prediction of another picture called \S+, .*, not of .*second.*: choose another"
    with pytest.raises(UserError, match=sentence):
        predicted(config, second, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out/labels").iterdir()} == kept


def test_a_picture_is_known_by_its_content_wherever_it_lies(
    config: Config, images: Path, second: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    predicted(config, moved, tmp_path / "out")
    tally = predicted(config, images, tmp_path / "out")
    assert (tally.predicted, tally.skipped, tally.changed) == (0, 4, 0)
    changed = sorted(moved.iterdir())[1]
    shutil.copy(second / changed.name, changed)
    tally = predicted(config, moved, tmp_path / "out")
    assert (tally.predicted, tally.skipped, tally.changed) == (1, 3, 1)
    last = json.loads((tmp_path / "out/pictures.jsonl").read_text().splitlines()[-1])
    assert (last["name"], last["path"]) == (changed.stem, str(changed))
    assert last["file"]["sha256"] == hashlib.sha256(changed.read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["", "half a line", "no line", "gone"])
def test_what_is_not_known_to_be_of_a_picture_is_predicted_again(
    damage: str, config: Config, images: Path, tmp_path: Path
) -> None:
    predicted(config, images, tmp_path)
    file = tmp_path / "pictures.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        {
            "": b"",
            "half a line": b"".join(lines)[:-20],
            "no line": b"5\n{}\n\xff\n" + b"".join(lines[:2]),
            "gone": b"",
        }[damage]
    )
    if damage == "gone":
        file.unlink()
    tally = predicted(config, images, tmp_path)
    assert tally.predicted == {"": 4, "half a line": 1, "no line": 2, "gone": 4}[damage]
    assert predicted(config, images, tmp_path).skipped == 4, "a line behind half of one is one"


def test_what_a_prediction_wrote_is_no_input(config: Config, images: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(images, work / "street")
    assert predicted(config, work, work).predicted == 4, "beside the pictures"
    assert predicted(config, work, work).skipped == 4
    predicted(config, work / "street", work / "first")
    names = {picture.name for picture in pictures.find([work], leave_out=is_output)}
    assert names == {f"street/{path.stem}" for path in images.iterdir()}
    for path in (
        work / "labels",
        work / "first",
        work / "legend.png",
        next((work / "first/colour").iterdir()),
    ):
        with pytest.raises(UserError, match="has nothing but what a prediction wrote: name the pictures"):
            pictures.find([path], leave_out=is_output)


def test_what_a_killed_process_left_is_removed(config: Config, images: Path, tmp_path: Path) -> None:
    predicted(config, images, tmp_path)
    left = [
        tmp_path / "labels/.a.png.12345678.tmp",
        tmp_path / "colour/b/.c.png.x.tmp",
        tmp_path / ".legend.png.1.tmp",
    ]
    own = [tmp_path / ".mine.tmp", tmp_path / "mine/.x.tmp"]
    for path in [*left, *own]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    predicted(config, images, tmp_path)
    assert not any(path.exists() for path in left) and all(path.exists() for path in own)


def test_two_processes_do_not_write_to_one_folder(config: Config, images: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".lock"), pytest.raises(UserError, match="is being written by process"):
        predicted(config, images, tmp_path)


def test_two_pictures_of_one_name_in_a_submission_are_refused(tmp_path: Path) -> None:
    origins = Origins(tmp_path)
    for name in ("a/1", "a/2", "a/1", "b/3"):
        origins.check_last_part(name)
    with pytest.raises(UserError, match="--voc-submission: a/2 and b/2 would both be 2 there"):
        origins.check_last_part("b/2")
    assert SUBMISSION.parts[0] == "results"


def test_the_command_says_it_in_a_sentence(
    config: Config, images: Path, second: Path, tmp_path: Path
) -> None:
    command = (
        "common",
        "predict",
        "--run",
        str(scored(config, "ce").folder),
        "--output",
        str(tmp_path / "out"),
    )
    assert "4 predicted, 0 were there already" in run(*command, str(images), cwd=ROOT).stdout
    result = run(*command, str(second), cwd=ROOT, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "structseg: " in result.stderr and "has the prediction of another picture called" in result.stderr
