"""The presets: what each of them runs, and that a shrunken copy of each trains."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from common import architectures, evaluate, measure, prepare, published, runs, tabulate, train
from common import config as configuration
from common.config import Config
from tests.conftest import ROOT, clone, run

PRESETS = {path.stem: path for path in sorted((ROOT / "workflow/presets").glob("*.yaml"))}

SIZES = {  # runs, trained models
    "camvid_cpu": (4, 3),
    "comparison": (84, 36),
    "ddcrf_voc_resnet50": (6, 6),
    "ddcrf_voc_resnet50_fcn": (6, 6),
    "ddcrf_voc_xception65": (6, 6),
    "modern_camvid": (15, 9),
    "rmi_camvid": (18, 18),
    "rmi_cityscapes": (9, 9),
    "rmi_pooling_ablation": (21, 21),
    "rmi_radius_ablation": (24, 24),
    "rmi_voc_deeplabv3": (21, 12),
    "rmi_voc_deeplabv3plus": (21, 12),
    "rmi_voc_pspnet": (6, 6),
}


COMPARABLE = {
    "comparison", "rmi_pooling_ablation", "rmi_radius_ablation", "rmi_voc_deeplabv3", "rmi_voc_deeplabv3plus",
    "ddcrf_voc_resnet50",
}  # fmt: skip
"""Those with a row that somebody has published."""


def load(name: str) -> Config:
    return configuration.load([ROOT / "config.yaml", PRESETS[name]])


def test_every_preset_is_known_here() -> None:
    assert {*PRESETS} == {*SIZES}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_has_its_runs(name: str) -> None:
    config = load(name)
    found = runs.runs(config)
    assert (len(found), len({each.training for each in found})) == SIZES[name]
    assert len({each.folder for each in found}) == len(found)
    for dataset, model in itertools.product(config["datasets"], config["models"]):
        settings = configuration.settings(config, "training", dataset, model)
        assert settings["crop"] and settings["iterations"] > settings["warmup"]
        assert dataset in config["training"]["per_dataset"], "a preset says how its data sets are trained on"
    text = PRESETS[name].read_text()
    assert text.startswith("# ") and ("arXiv" in text or name == "camvid_cpu"), "a preset names its source"


def test_presets_build() -> None:
    """The models and methods of all presets can be built as their options say (without numbers)."""
    from common.models import Network

    seen = set()
    for name in PRESETS:
        config = load(name)
        configuration.check_values(config)
        for model in config["models"]:
            options = config["model_options"][model] | {"weights": "none"}
            if (model, str(options)) not in seen:
                with torch.device("meta"):
                    assert Network(model, 21, options).feature_channels == options["decoder_channels"]
            seen.add((model, str(options)))
    assert {model.partition("-")[0] for model, _ in seen} >= {*architectures.OWN} - {"segformer"}


def test_the_published_recipes() -> None:
    """Some of the numbers that are easily got wrong, against the papers' configurations."""
    config = load("rmi_voc_deeplabv3plus")
    settings = configuration.settings(config, "training", "voc", "deeplabv3plus-resnet101s")
    assert settings["iterations"] == round(46 * 10582 / 16) and settings["split"] == "trainaug"
    assert settings["learning_rate"] * settings["warmup_factor"] == pytest.approx(1e-4, rel=1e-4)
    assert settings["head_multiplier"] == 5
    config = load("ddcrf_voc_resnet50_fcn")
    assert configuration.method(config, "ddcrf", "voc").options["iterations"] == 15
    assert configuration.settings(config, "training", "voc", "fcn-resnet50")["iterations"] == round(
        50 * 10582 / 16
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [("rmi_voc_deeplabv3", 7), ("rmi_voc_deeplabv3plus", 7), ("rmi_pooling_ablation", 7)]
    + [("rmi_radius_ablation", 8), ("comparison", 6), ("rmi_camvid", 0)],
)
def test_the_rows_of_a_preset_find_their_published_numbers(name: str, count: int) -> None:
    config = load(name)
    rows = itertools.product(config["datasets"], config["models"], config["methods"])
    found = [published.find(config, *row) for row in rows]
    assert sum((table["metric"] == "miou").any() for table in found) == count


# Shrunken copies


def _noise(path: Path, side: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _labels(path: Path, side: int, values: list[int]) -> None:
    """Vertical stripes of the given values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.resize(np.repeat(np.array(values, np.uint8), 12), side + 20)
    Image.fromarray(np.tile(columns, (side, 1))).save(path)


def write_voc(root: Path, side: int = 80) -> None:
    """VOC 2012 with SBD's additional images as a ready folder: 4 + 4 + 2 images."""
    base = root / "VOCdevkit/VOC2012"
    for split, numbers in (("train", range(4)), ("val", range(4, 6)), ("more", range(6, 10))):
        names = [f"2008_{number:06d}" for number in numbers]
        for number, name in zip(numbers, names):
            _noise(base / f"JPEGImages/{name}.jpg", side, number)
            _labels(base / f"SegmentationClassAug/{name}.png", side, [0, 1 + number, 255, 20])
            if split != "more":
                _labels(base / f"SegmentationClass/{name}.png", side, [0, 1 + number, 255, 20])
        if split != "more":
            lists = base / "ImageSets/Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def write_camvid(root: Path, side: int = 80) -> None:
    """CamVid in the layout of the SegNet tutorial."""
    for start, split in ((0, "train"), (4, "val"), (6, "test")):
        lines = []
        for number in range(start, start + 2):
            _noise(root / f"{split}/{number:03d}.png", side, number)
            _labels(root / f"{split}annot/{number:03d}.png", side, [number, 11, 10])
            lines.append(
                f"/SegNet/CamVid/{split}/{number:03d}.png /SegNet/CamVid/{split}annot/{number:03d}.png\n"
            )
        (root / f"{split}.txt").write_text("".join(lines))


def write_cityscapes(root: Path, side: int = 80) -> None:
    """Cityscapes with label ids."""
    for start, split in ((0, "train"), (4, "val")):
        for number in range(start, start + 3):
            name = f"{split}/town/town_{number:06d}_000019"
            _noise(root / f"leftImg8bit/{name}_leftImg8bit.png", side, number)
            _labels(root / f"gtFine/{name}_gtFine_labelIds.png", side, [7, 26, 4])


def shrunken(config: Config) -> Config:
    """What is laid over a preset to run it in minutes: 20 iterations of tiny crops, random weights."""
    tiny = {
        "iterations": 20, "batch_size": 2, "crop": [33, 33], "warmup": 5, "precision": "float32",
        "learning_rate": 1e-4,
    }  # fmt: skip
    return {
        "seeds": [0],
        "model_options": {model: {"weights": "none"} for model in config["models"]},
        "training": {"per_dataset": dict.fromkeys(config["datasets"], tiny)},
        "execution": {"device": "cpu", "log_every": 5},
        "resources": {"gpu": 0, "cpus": 1},
    }


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data sets, where the presets look for them."""
    for dataset, write in (("voc", write_voc), ("camvid", write_camvid), ("cityscapes", write_cityscapes)):
        monkeypatch.setenv(f"{dataset.upper()}_ROOT", str(tmp_path / dataset))
        write(tmp_path / dataset)


@pytest.mark.long
@pytest.mark.parametrize("name", PRESETS)
def test_a_dry_run_of_a_preset(name: str, tmp_path: Path) -> None:
    folder = clone(tmp_path)
    preset = str(PRESETS[name].relative_to(ROOT))
    planned = run("snakemake", "-n", "--cores", "2", "--configfile", preset, cwd=folder).stdout
    count, trained = SIZES[name]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned, flags=re.MULTILINE))
    assert (jobs["train"], jobs["evaluate"], jobs["measure"]) == (str(trained), str(count), str(count))


@pytest.mark.long
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", PRESETS)
def test_a_shrunken_copy_of_a_preset_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)  # few repetitions: no time is looked at
    preset = load(name)
    small = shrunken(preset) | {"results": str(tmp_path / "results")}
    config = configuration.complete(configuration.merge(preset, small))
    for dataset in config["datasets"]:
        prepare.prepare(config, dataset)
    for each in runs.runs(config):
        train.train(config, each.training)
        evaluate.evaluate(config, each)
        measure.measure(config, each)
        log = [json.loads(line) for line in each.training.log.read_text().splitlines()]
        assert log[-1]["iteration"] == 20 and all(math.isfinite(line["loss"]) for line in log)
    shutil.rmtree(tmp_path / "results/models")  # gigabytes, which pytest would keep
    text = tabulate.tabulate(config).read_text()
    table = pd.read_csv(tmp_path / "results/leaderboard.csv")
    count = len(config["datasets"]) * len(config["models"]) * len(config["methods"])
    assert len(table) == count and table["error"].isna().all()
    assert table["miou_mean"].between(0, 100).all() and (table["network_ms"] > 0).all()
    assert ("Published mIoU" in text) == table["published"].notna().any() == (name in COMPARABLE)


@pytest.mark.long
@pytest.mark.usefixtures("data")
def test_a_shrunken_copy_runs_from_the_command_line(tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    (folder / "small.yaml").write_text(yaml.safe_dump(shrunken(load("rmi_voc_pspnet"))))
    preset = "workflow/presets/rmi_voc_pspnet.yaml"
    run("snakemake", "--cores", "2", "--configfile", preset, "small.yaml", cwd=folder)
    assert pd.read_csv(folder / "results/leaderboard.csv")["error"].isna().all()
