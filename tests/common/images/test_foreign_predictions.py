"""Label maps of another system: scored by the same protocol, and told apart by their content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from common.config import entries, reading, values
from common.config.entries import Config
from common.errors import UserError
from common.images.names import files_below
from common.runs import plan
from common.runs.jobs import ReadRun, Run
from common.runs.records import Metrics
from common.scoring.counts import SplitCounts
from common.stages import evaluate, prepare, status, tabulate
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"


def write(folder: Path, config: Config, shift: int = 0, palette: bool = False) -> None:
    """Predicts the truth of the test images, moved to the right by some pixels."""
    dataset = entries.dataset(config, "digits")
    folder.mkdir(parents=True, exist_ok=True)
    for name in dataset.names("test"):
        picture = Image.fromarray(np.roll(dataset.read("test", name)[1], shift, axis=1))
        if palette:
            picture.putpalette([value for colour in dataset.colours for value in colour])
        picture.save(folder / f"{name}.png")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three entries: grey, with a palette, and one per seed."""
    content = yaml.safe_load(yaml.safe_dump(TINY)) | {
        "methods": ["ce", "theirs", "perfect", "seeded"],
        "seeds": [3, 4],
        "results": str(tmp_path / "results"),
        "method_options": {
            "theirs": {"predictions": str(tmp_path / "theirs")},
            "perfect": {"predictions": f"{tmp_path}/{{dataset}}/{{split}}"},
            "seeded": {"predictions": f"{tmp_path}/seeded/{{model}}/{{seed}}"},
        },
    }
    plain = reading.complete(yaml.safe_load(yaml.safe_dump(TINY)))
    write(tmp_path / "theirs", plain, shift=2)
    write(tmp_path / "digits/test", plain, palette=True)
    for seed in (3, 4):
        write(tmp_path / f"seeded/{MODEL}/{seed}", plain, shift=seed)
    return reading.complete(content)


def runs(config: Config) -> dict[tuple[str, int], Run]:
    return {(run.method, run.seed): run for run in plan.runs(config)}


def scores(config: Config, method: str, seed: int = 3) -> Metrics:
    run = runs(config)[method, seed]
    if not run.data.path.exists():
        prepare.prepare(run.data)
    evaluate.evaluate(run, plan.execution(config))
    return Metrics.read(run)


def test_predictions_in_a_folder_that_is_a_link_are_told_apart(tmp_path: Path) -> None:
    for name in ("here/a.png", "there/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    (tmp_path / "here/more").symlink_to(tmp_path / "there")
    files = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path / "here")]
    assert files == ["here/a.png", "here/more/b.png"], "their content is part of a run's digest"


def test_without_seeds_in_the_path_there_is_one_run(config: Config) -> None:
    assert set(runs(config)) == {
        ("ce", 3), ("ce", 4), ("theirs", 3), ("perfect", 3), ("seeded", 3), ("seeded", 4),
    }  # fmt: skip


def test_predictions_are_scored_like_those_of_a_run(config: Config, tmp_path: Path) -> None:
    assert scores(config, "perfect").miou == 1
    theirs = scores(config, "theirs")
    assert 0.1 < theirs.miou < 1
    assert theirs.trained is None and theirs.predictions is not None
    assert theirs.predictions.folder == str(tmp_path / "theirs")
    assert theirs.images == 4
    run = runs(config)["theirs", 3]
    assert isinstance(run, ReadRun)
    counts = SplitCounts.read(run.per_image)
    assert counts.confusion.shape == (4, 11, 11) and counts.names[0] == "test/test-00000"
    assert counts.calibration is None and counts.nll is None
    assert run.panel.exists()
    seeded = [scores(config, "seeded", seed).miou for seed in (3, 4)]
    assert theirs.miou > seeded[0] > seeded[1], "the farther they are moved, the worse"


def test_the_run_depends_on_what_is_predicted_and_not_on_where_it_lies(
    config: Config, tmp_path: Path
) -> None:
    before = runs(config)["theirs", 3].digest
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "theirs").rename(elsewhere)
    config["method_options"]["theirs"]["predictions"] = str(elsewhere)
    assert runs(config)["theirs", 3].digest == before
    one = elsewhere / "test-00000.png"
    changed = np.array(Image.open(one))
    changed[0, 0] ^= 1
    Image.fromarray(changed).save(one)
    runs_folder = tmp_path / "moved"  # what a folder has is read once per process
    elsewhere.rename(runs_folder)
    config["method_options"]["theirs"]["predictions"] = str(runs_folder)
    assert runs(config)["theirs", 3].digest != before


def drawn(folder: Path, config: Config, order: list[int], colours: bool = False) -> None:
    """Predicts the truth with a palette of the dataset's colours in another order, or in colours."""
    dataset = entries.dataset(config, "digits")
    folder.mkdir(parents=True, exist_ok=True)
    for name in dataset.names("test"):
        index = np.argsort(order).astype(np.uint8)  # the colours are right, the indices are not
        labels = dataset.read("test", name)[1]
        picture = Image.fromarray(labels if colours else index[labels])
        palette = dataset.colours if colours else [dataset.colours[label] for label in order]
        picture.putpalette([value for colour in palette for value in colour])
        (picture.convert("RGB") if colours else picture).save(folder / f"{name}.png")


BACKWARDS = list(range(10, -1, -1))


def test_palettes_in_another_order_are_refused_unless_they_are_read_by_colour(
    config: Config, tmp_path: Path
) -> None:
    drawn(tmp_path / "theirs", config, BACKWARDS)
    with pytest.raises(UserError, match=r"gives .* the colour \(.*\) of .* set colour_coded to true beside"):
        scores(config, "theirs")
    by_index = runs(config)["theirs", 3].digest
    config["method_options"]["theirs"]["colour_coded"] = True
    assert runs(config)["theirs", 3].digest != by_index
    assert scores(config, "theirs").miou == 1


def test_predictions_in_colours_are_read_by_colour(config: Config, tmp_path: Path) -> None:
    drawn(tmp_path / "theirs", config, BACKWARDS, colours=True)
    config["method_options"]["theirs"]["colour_coded"] = True
    assert scores(config, "theirs").miou == 1
    Image.new("RGB", (48, 48), (1, 2, 3)).save(tmp_path / "theirs/test-00003.png")
    with pytest.raises(UserError, match=r"test-00003.png has the colours \(1, 2, 3\) \(2304 pixels\)"):
        scores(config, "theirs")


def test_palettes_that_differ_are_refused(config: Config, tmp_path: Path) -> None:
    for name in ("test-00001", "test-00002"):
        path = tmp_path / f"theirs/{name}.png"
        picture = Image.open(path)
        picture.putpalette([(5 * int(name[-1]) + value) % 256 for value in range(33)])
        picture.save(path)
    with pytest.raises(
        UserError, match=r"test-00002.png gives background .* but .*test-00001.png gives it .*: save"
    ):
        scores(config, "theirs")


def png(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(labels)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), "test-00002.png is missing: there must be a PNG for every image"),
        (lambda path: path.write_bytes(b"?"), "test-00002.png cannot be read as a picture"),
        (
            lambda path: png(np.zeros((40, 48), np.uint8)).save(path),
            "test-00002.png is 48×40 but its image is 48×48",
        ),
        (
            lambda path: png(np.full((48, 48), 11, np.uint8)).save(path),
            "test-00002.png has the label 11: every pixel must have one of the dataset's classes, 0–10",
        ),
        (
            lambda path: png(np.zeros((48, 48, 3), np.uint8)).save(path),
            "test-00002.png has several channels (mode RGB)",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    spoil: object, sentence: str, config: Config, tmp_path: Path
) -> None:
    spoil(tmp_path / "theirs/test-00002.png")
    with pytest.raises(UserError) as caught:
        scores(config, "theirs")
    assert sentence in str(caught.value) and len(str(caught.value).splitlines()) == 1
    table = csv(config)
    assert sentence in table.loc["theirs", "error"]
    (progress,) = (one for one in status.status(plan.benchmark(config)) if one.run.method == "theirs")
    assert progress.state == "failed" and sentence in progress.note


def csv(config: Config) -> pd.DataFrame:
    tabulate.tabulate(plan.benchmark(config))
    return pd.read_csv(Path(config["results"]) / "leaderboard.csv").set_index("method")


def test_the_leaderboard_marks_them(config: Config) -> None:
    config["methods"] = ["ce", "theirs", "perfect"]
    for method in ("theirs", "perfect"):
        scores(config, method)
    table = csv(config)
    assert table.loc["perfect", "miou_mean"] == 100 and table.loc["perfect", "seeds"] == 1
    assert pd.isna(table.loc["perfect", "error"]) and pd.isna(table.loc["perfect", "network_ms"])
    assert table.loc["perfect", "origin"] == "predictions read from a folder"
    assert table.loc["ce", "origin"] == "trained here"
    text = (Path(config["results"]) / "leaderboard.md").read_text()
    assert "| perfect † " in text and "| ce " in text
    assert "†: predictions read from a folder and scored in the same way; not trained" in text
    config["methods"] = ["perfect", "theirs"]
    config["tables"]["baseline"] = "theirs"
    assert csv(config).loc["perfect", "difference_mean"] > 0
    assert plan.benchmark(config).outputs.stamp.exists(), "they lack no cost"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"theirs": {"predictions": "nowhere"}}, "nowhere: there are no predictions"),
        (
            {"theirs": {"predictions": "a/{fold}"}},
            "may have only {dataset}, {model}, {seed}, {split} in braces",
        ),
        (
            {"theirs": {"predictions": "a", "module": "ce"}},
            "method_options.theirs: predictions are scored as they are; remove module",
        ),
        (
            {"theirs": {"predictions": "a", "colour_coded": "yes"}},
            "colour_coded: 'yes' must be true or false",
        ),
        (
            {"theirs": {"predictions": "a"}, "crf-1": {"module": "densecrf", "trained_as": "theirs"}},
            "method_options.crf-1.trained_as: theirs is read from a folder",
        ),
    ],
)
def test_wrong_entries_are_refused(options: dict, sentence: str, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml.safe_dump(TINY)) | {"results": str(tmp_path), "method_options": options}
    with pytest.raises(UserError) as caught:
        plan.runs(reading.complete(content | {"methods": ["ce", "theirs"]}))
    assert sentence in str(caught.value)


def test_there_is_nothing_to_train(config: Config) -> None:
    with pytest.raises(UserError, match="theirs is read from a folder: there is nothing to train"):
        plan.training(config, "digits", MODEL, "theirs", 3)
    values.check_values(config)
