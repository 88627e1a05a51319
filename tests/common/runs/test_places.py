"""The same data elsewhere are the same; other data are never taken for those that results were made with."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import reading
from common.runs import places, plan
from common.runs.jobs import TrainedRun
from tests import synthetic
from tests.common.datasets import layouts, prepared
from tests.common.datasets.prepared import call
from tests.synthetic import facts_of, plain_counts

Change = Callable[[Path], object]


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """A folder with the data in `here`, prepared, and the configuration."""
    assert prepared.prepare(prepared.write(tmp_path / "here")).status == 0
    return tmp_path


def configured(streets: Path, root: Path, **options: Any) -> list[str]:
    """The arguments of a configuration with another root, and the results of the first one."""
    config = yaml.safe_load((streets / "here/config.yaml").read_text())
    config["dataset_options"]["streets"] |= {"root": str(root)} | options
    file = streets / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return ["--configfile", str(file)]


def run_of(streets: Path) -> TrainedRun:
    """The run of the configuration."""
    config = reading.load([streets / "here/config.yaml"])
    (run,) = plan.runs(config)
    assert isinstance(run, TrainedRun)
    return run


def write_scores(run: TrainedRun, content: str, trained: str) -> None:
    """Scores of data with some content, by a model that was trained on data with another."""
    facts = facts_of(run.training, content_sha256=trained)
    synthetic.write_scores(run, plain_counts(run, 0.5), content_sha256=content, trained=facts)


def elsewhere(streets: Path, change: Change = lambda root: None) -> Path:
    """A copy of the data, changed."""
    root = streets / "elsewhere"
    shutil.copytree(streets / "here", root, ignore=shutil.ignore_patterns("results", "config.yaml"))
    change(root)
    return root


def test_where_data_lie_is_no_part_of_a_digest(streets: Path) -> None:
    for root in ("/nowhere", str(elsewhere(streets)), "~/data"):
        config = reading.load([Path(configured(streets, Path(root))[1])])
        (run,) = plan.runs(config)
        before = run_of(streets)
        assert (run.data.path, run.metrics) == (before.data.path, before.metrics)


SAME: list[Change] = [
    lambda root: None,
    lambda root: [os.utime(path, (0, 0)) for path in root.rglob("*.png")],
    lambda root: layouts.picture(root / "images/unlisted.png"),
    lambda root: (root / "notes.txt").write_text("mine"),
    lambda root: (root / "val.txt").write_bytes("\ufeffc\r\n".encode("utf-16-le")),
    lambda root: (root / "train.txt").unlink(),  # half a copy, as on a machine that only tabulates
    lambda root: (root / "images/d.png").unlink(),
    lambda root: shutil.rmtree(root),
]


@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize("verb", ["status", "tabulate"])
def test_the_same_data_elsewhere_are_the_same(verb: str, change: Change, streets: Path) -> None:
    run = run_of(streets)
    content = run.data.manifest().content_sha256
    write_scores(run, content, content)
    status, errors = call(verb, *configured(streets, elsewhere(streets, change)))
    assert "not those that" not in errors and "Traceback" not in errors
    assert status == 0 or "per_image.npz" in errors


def shifted(root: Path) -> None:
    """Other pixels in a file of the same size."""
    path = root / "images/a.png"
    size = path.stat().st_size
    with Image.open(path) as picture:
        pixels = 255 - np.array(picture)
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == size


OTHER: list[tuple[Change, str]] = [
    (shifted, "images/a.png or .*is another one"),
    (lambda root: layouts.picture(root / "images/c.png", (30, 40)), "images/c.png or .*has another size"),
    (lambda root: prepared.label(root / "labels/d.png", 0), "labels/d.png has another size|is another one"),
    (lambda root: prepared.label(root / "labels/d.png", 2, 1, 0), "labels/d.png"),
    (
        lambda root: layouts.lines(root / "val.txt", ["c", "d"]),
        "the images of val changed .*1 more, such as d",
    ),
    (lambda root: layouts.lines(root / "val.txt", ["d"]), "the images of val changed"),
    (lambda root: shutil.copy(root / "labels/a.png", root / "images/d.png"), "images/d.png"),
]


@pytest.mark.parametrize(("change", "reason"), OTHER)
def test_other_data_under_the_name_are_refused_when_planning(
    change: Change, reason: str, streets: Path
) -> None:
    status, errors = call("status", *configured(streets, elsewhere(streets, change)))
    assert status == 2 and errors.count("\n") == 1
    assert "dataset_options.streets: the data there are not those that" in errors
    assert "give these data a name of their own under dataset_options, or" in errors
    assert re.search(reason, errors), errors


def test_files_of_one_size_are_told_apart(tmp_path: Path) -> None:
    """As all are that are not compressed; the one that differs is none that a panel shows."""
    root = prepared.write(tmp_path / "here")
    names = [f"{number:02}" for number in range(12)]
    layouts.lines(root / "train.txt", names)
    for name in [*names, "c", "d"]:
        layouts.picture(root / f"images/{name}.png")
        prepared.label(root / f"labels/{name}.bmp", 0, 1, 2)
    ending = prepared.prepare(root, label_suffix=".bmp", allow=["repeated_images"])
    assert ending.status == 0, ending.errors
    other = elsewhere(tmp_path, lambda root: prepared.label(root / "labels/01.bmp", 2, 1, 0))
    status, errors = call("status", *configured(tmp_path, other))
    assert status == 2 and "labels/01.bmp is another one" in errors


def test_another_disk_at_the_same_path_is_seen(streets: Path) -> None:
    elsewhere(streets, lambda root: layouts.picture(root / "images/c.png", (30, 40)))
    arguments = configured(streets, streets / "here")
    assert call("status", *arguments)[0] == 0
    results = streets / "here/results"
    results.rename(streets / "results")
    (streets / "here").rename(streets / "gone")
    (streets / "elsewhere").rename(streets / "here")
    (streets / "results").rename(results)
    status, errors = call("status", *arguments)
    assert status == 2 and "has another size" in errors


def test_a_place_is_looked_at_once(streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = elsewhere(streets)
    assert call("status", *configured(streets, root))[0] == 0
    monkeypatch.setattr(places, "difference", lambda *_: pytest.fail("it was looked at again"))
    for place in (root, streets / "here", root):
        assert call("status", *configured(streets, place))[0] == 0


def test_preparing_other_data_where_results_lie_is_refused(streets: Path) -> None:
    run = run_of(streets)
    content = run.data.manifest().content_sha256
    write_scores(run, content, content)
    run.data.path.unlink()
    assert prepared.prepare(streets / "here").status == 0, "the same data"
    layouts.picture(streets / "here/images/new.png")
    shutil.move(streets / "here/images/new.png", streets / "here/images/d.png")
    run.data.path.unlink()
    ending = prepared.prepare(streets / "here")
    assert ending.status == 2 and ending.manifest is None
    assert "its images or labels are not those that 1 results were made with" in ending.errors
    assert str(run.folder) in ending.errors and "give these a name of their own" in ending.errors
    shutil.rmtree(streets / "here/results/runs/streets")
    assert prepared.prepare(streets / "here").status == 0


@pytest.mark.parametrize("which", ["scored", "trained"])
def test_results_of_other_data_are_a_reason_and_no_number(which: str, streets: Path) -> None:
    run = run_of(streets)
    content = run.data.manifest().content_sha256
    other = "0" * 64
    write_scores(run, other if which == "scored" else content, other if which == "trained" else content)
    before = run.metrics.read_bytes()
    call("tabulate", *configured(streets, streets / "here"))
    table = (streets / "here/results/leaderboard.csv").read_text()
    assert "is a result of other images or labels than streets has now" in table
    assert "50.00" not in table
    assert run.metrics.read_bytes() == before, "it is not damaged"
