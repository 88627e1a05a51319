"""The presets: what each of them runs, and that a shrunken copy of each trains."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from common.config import entries, reading, values
from common.config.entries import Config
from common.networks import architectures
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.runs import plan
from common.runs.records import read_log
from common.stages import evaluate, measure, prepare, tabulate, train
from common.tables import published, results
from common.timing import clock, inference
from tests.conftest import ROOT, clone, run

PRESETS = {path.stem: path for path in sorted((ROOT / "workflow/presets").glob("*.yaml"))}

SIZES = {  # runs, trained models
    "camvid_cpu": (16, 14),
    "camvid_gpu": (15, 13),
    "camvid_reference": (48, 33),
    "comparison": (156, 108),
    "ddcrf_voc_resnet50": (6, 6),
    "ddcrf_voc_resnet50_fcn": (6, 6),
    "ddcrf_voc_xception65": (6, 6),
    "field_camvid": (87, 69),
    "field_voc": (186, 144),
    "modern_camvid": (54, 42),
    "rmi_camvid": (18, 18),
    "rmi_cityscapes": (9, 9),
    "rmi_pooling_ablation": (21, 21),
    "rmi_radius_ablation": (24, 24),
    "rmi_voc_deeplabv3": (21, 12),
    "rmi_voc_deeplabv3plus": (21, 12),
    "rmi_voc_pspnet": (6, 6),
}


COMPARABLE = {
    "comparison", "field_voc", "rmi_pooling_ablation", "rmi_radius_ablation", "rmi_voc_deeplabv3",
    "rmi_voc_deeplabv3plus",
}  # fmt: skip
"""Those with a row that somebody has published."""


PARAMETERS = {
    ("rmi_voc_deeplabv3", "ce"): 58_164_437,
    ("rmi_pooling_ablation", "rmi-average-4"): 58_164_437,
    ("rmi_radius_ablation", "rmi-pool4-radius3"): 58_164_437,
    ("rmi_cityscapes", "rmi"): 58_164_437,
    ("rmi_voc_deeplabv3plus", "rmi"): 59_468_085,
    ("rmi_voc_pspnet", "rmi"): 68_073_706,
    ("ddcrf_voc_resnet50", "ddcrf"): 39_274_766,
    ("ddcrf_voc_resnet50_fcn", "ddcrf"): 25_445_134,
    ("ddcrf_voc_xception65", "ddcrf"): 53_634_046,
}
"""Of network and method with 21 classes, counted in the published code."""


def load(name: str) -> Config:
    return reading.load([PRESETS[name]], base=ROOT / "config.yaml")


def test_every_preset_is_known_here() -> None:
    assert {*PRESETS} == {*SIZES}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_has_its_runs(name: str) -> None:
    config = load(name)
    benchmark = plan.benchmark(config)
    runs = benchmark.runs
    trained = {training.folder for each in runs for training in each.trainings}
    assert (len(runs), len(trained)) == SIZES[name]
    assert len({each.folder for each in runs}) == len(runs)
    for group in benchmark.groups:
        assert group.training.crop and group.training.iterations > group.training.warmup
        told = config["training"]["per_dataset"]
        assert group.dataset in told, "a preset says how its datasets are trained on"
    text = PRESETS[name].read_text()
    assert text.startswith("# ") and ("arXiv" in text or name.startswith("camvid_")), (
        "a preset names its source"
    )


def test_presets_build() -> None:
    """The models and methods of all presets can be built as their options say (without numbers)."""
    built: set[tuple[str, ModelOptions]] = set()
    for name in PRESETS:
        config = load(name)
        values.check_values(config)
        for control in (group.controls[0] for group in plan.benchmark(config).groups):
            model, options = control.model, replace(control.model_options, weights="none")
            if (model, options) not in built:
                with torch.device("meta"):
                    assert Network(model, 21, options).feature_channels == options.decoder_channels
            built.add((model, options))
    assert {model.partition("-")[0] for model, _ in built} >= {*architectures.SETTINGS} - {"segformer"}


def parameters(config: Config, model: str, method: str) -> int:
    """Of the network and a method of a preset, with 21 classes."""
    options = next(
        group.controls[0].model_options for group in plan.benchmark(config).groups if group.model == model
    )
    with torch.device("meta"):
        network = Network(model, 21, replace(options, weights="none"))
        built = entries.method(config, method, config["datasets"][0]).build(21, network.feature_channels)
    return sum(parameter.numel() for part in (network, built) for parameter in part.parameters())


@pytest.mark.parametrize(("name", "method"), PARAMETERS)
def test_a_preset_has_the_published_number_of_parameters(name: str, method: str) -> None:
    config = load(name)
    assert parameters(config, config["models"][0], method) == PARAMETERS[name, method]


def test_both_models_of_the_camvid_preset_have_the_published_number_of_parameters() -> None:
    config = load("rmi_camvid")
    counts = [parameters(config, model, "rmi") for model in config["models"]]
    assert counts == [58_164_437, 59_468_085]


def test_a_preset_without_a_published_row_says_so() -> None:
    silent = {name for name, path in PRESETS.items() if "matches no row" not in path.read_text()}
    assert silent == COMPARABLE and len(PRESETS) - len(silent) == 11


def test_the_published_recipes() -> None:
    """Some of the numbers that are easily got wrong, against the papers' configurations."""
    settings = plan.training_settings(load("rmi_voc_deeplabv3plus"), "voc", "deeplabv3plus-resnet101s")
    assert settings.iterations == 46 * (10582 // 16) and settings.split == "trainaug"
    assert (settings.padding_place, settings.interpolation, settings.decay_all) == ("end", "bicubic", False)
    assert settings.learning_rate * settings.warmup_factor == pytest.approx(1e-4, rel=1e-4)
    assert settings.head_multiplier == 5
    config = load("ddcrf_voc_resnet50_fcn")
    assert entries.method(config, "ddcrf", "voc").options["iterations"] == 15
    settings = plan.training_settings(config, "voc", "fcn-resnet50")
    assert settings.iterations == 50 * math.ceil(10582 / 16)
    assert (settings.padding, settings.padding_place) == ("black", "end")
    assert settings.decay_all and settings.jitter_first


@pytest.mark.parametrize(
    ("name", "count"),
    [("rmi_voc_deeplabv3", 7), ("rmi_voc_deeplabv3plus", 7), ("rmi_pooling_ablation", 7)]
    + [("rmi_radius_ablation", 8), ("comparison", 5), ("rmi_camvid", 0), ("ddcrf_voc_resnet50", 0)],
)
def test_the_rows_of_a_preset_find_their_published_numbers(name: str, count: int) -> None:
    benchmark = plan.benchmark(load(name))
    rows = results.rows_of(benchmark, map(results.Result, benchmark.runs))
    tables = published.numbers(rows).values()
    assert sum((table["metric"] == "miou").any() for table in tables) == count


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
    long = {"training": {"iterations": 20}}
    return {
        "seeds": [0],
        "method_options": {"ce-long": long | {"per_dataset": dict.fromkeys(config["datasets"], long)}},
        "dataset_options": {dataset: {"allow": ["absent_classes"]} for dataset in config["datasets"]},
        "model_options": {model: {"weights": "none"} for model in config["models"]},
        "training": {"per_dataset": dict.fromkeys(config["datasets"], tiny)},
        "execution": {"device": "cpu", "log_every": 5, "quiet_wait": 0},
        "resources": {"gpu": 0, "cpus": 1},
    }


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small datasets, where the presets look for them."""
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
    measured = count // len(load(name)["seeds"])
    assert (jobs["train"], jobs["evaluate"], jobs["measure"]) == (str(trained), str(count), str(measured))


@pytest.mark.long
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", PRESETS)
def test_a_shrunken_copy_of_a_preset_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (clock, inference):
        monkeypatch.setattr(module, "SECONDS", 0.0)  # few repetitions: no time is looked at
    preset = load(name)
    small = shrunken(preset) | {"results": str(tmp_path / "results")}
    benchmark = plan.benchmark(reading.complete(reading.merge(preset, small)))
    for group in benchmark.groups:
        prepare.prepare(group.data)
    for each in benchmark.runs:
        for training in each.trainings:
            train.train(training, benchmark.execution)
        evaluate.evaluate(each, benchmark.execution)
        measure.measure(each, benchmark.execution)
        log = read_log(each.training.log)
        assert log[-1].iteration == 20 and all(math.isfinite(line.loss) for line in log)
    shutil.rmtree(tmp_path / "results/models")  # gigabytes, which pytest would keep
    text = tabulate.tabulate(benchmark).read_text()
    table = pd.read_csv(tmp_path / "results/leaderboard.csv")
    assert len(table) == len(benchmark.groups) * len(benchmark.methods)
    run = {(each.model, each.method) for each in benchmark.runs}
    table = table[[row in run for row in zip(table["model"], table["method"])]]
    assert len(table) == len(benchmark.runs) and table["error"].isna().all()
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
