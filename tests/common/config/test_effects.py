"""What is set and changes nothing is said, in one sentence each, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.config import reading
from tests.conftest import ROOT, TINY

MODEL = TINY["models"][0]
BASE = ROOT / "config.yaml"


def sentences(change: str, base: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is said of a change of a configuration."""
    reading.load([], over=yaml.safe_load(change), base=base)
    return capsys.readouterr().err.splitlines()


EFFECTS = [
    (
        "training: {iterations: 50}",
        "training.iterations: 50 has no effect: training.per_dataset.digits.iterations is 640, "
        "which goes before it; set that",
    ),
    (
        "training: {iterations: 50}\ndatasets: [digits, camvid]",
        "training.iterations: 50 has no effect on digits: training.per_dataset.digits.iterations is 640",
    ),
    (
        "training: {per_dataset: {digits: {flip: true}}, per_model: {deeplabv3plus-test_resnet: "
        "{flip: false}}}",
        "training.per_dataset.digits.flip: true has no effect: "
        "training.per_model.deeplabv3plus-test_resnet.flip is false",
    ),
    (
        "evaluation: {split: train, per_dataset: {digits: {split: test}}}",
        "evaluation.split: 'train' has no effect: evaluation.per_dataset.digits.split is 'test'",
    ),
    (
        "method_options: {rmi: {pool_size: 3}}",
        "method_options.rmi.pool_size: 3 has no effect: method_options.rmi.per_dataset.digits.pool_size is 2",
    ),
    (
        "method_options: {dice: {weight: 0.5}}",
        "method_options.dice has no effect on any run: dice is not among the methods",
    ),
    (
        "model_options: {fcn-resnet50: {dropout: 0.1}}",
        "model_options.fcn-resnet50 has no effect on any run: fcn-resnet50 is not among the models",
    ),
    (
        "dataset_options: {camvid: {root: /data}}",
        "dataset_options.camvid has no effect on any run: camvid is not among the datasets",
    ),
    (
        "training: {per_dataset: {camvid: {flip: false}}}",
        "training.per_dataset.camvid has no effect on any run",
    ),
    (
        "evaluation: {per_model: {fcn-resnet50: {flip: false}}}",
        "evaluation.per_model.fcn-resnet50 has no effect on any run",
    ),
    (
        "method_options: {rmi: {per_dataset: {camvid: {radius: 2}}}}",
        "method_options.rmi.per_dataset.camvid has no effect on any run",
    ),
    (
        "training: {momentum: 0.5}",
        "training.momentum: 0.5 has no effect: the optimizer is not sgd",
    ),
    (
        "training: {schedule: cosine, power: 2}",
        "training.power: 2 has no effect: the schedule is not poly",
    ),
    (
        "training: {step_at: [0.5]}",
        "training.step_at: [0.5] has no effect: the schedule is not step",
    ),
    (
        "training: {per_dataset: {digits: {step_factor: 0.5}}}",
        "training.per_dataset.digits.step_factor: 0.5 has no effect: the schedule is not step",
    ),
    (
        "training: {warmup_factor: 0.5, per_dataset: {digits: {warmup: 0}}}",
        "training.warmup_factor: 0.5 has no effect: warmup is 0",
    ),
    (
        "training: {scale_step: 0.25}",
        "training.scale_step: 0.25 has no effect: scale is a single number",
    ),
    (
        "training: {scale: [0.5, 1], scale_step: 3, crop: [32, 32]}",
        "training.scale_step (for digits): steps of 3 do not end at 1: drawn is 0.5 alone",
    ),
    (
        "training: {scale: [0.5, 1], scale_step: 0.3, crop: [32, 32]}",
        "steps of 0.3 do not end at 1: drawn is 0.5 to 1.1",
    ),
    (
        "training: {padding: black}",
        "training.padding: 'black' has no effect: nothing is cropped or turned",
    ),
    (
        "training: {jitter_first: true}",
        "training.jitter_first: true has no effect: jitter is 0",
    ),
    (
        "model_options: {deeplabv3plus-test_resnet: {freeze_batchnorm: true, batchnorm_momentum: 0.1}}",
        "model_options.deeplabv3plus-test_resnet.batchnorm_momentum: 0.1 has no effect: BatchNorm "
        "is frozen there",
    ),
    (
        "methods: [rmi, ddcrf]",
        "tables.baseline: ce is not among the methods: no differences are shown",
    ),
    (
        "tuning: {methods: {ce: null, rmi: null, ddcrf: null, crf-5: null}, images: 5}",
        "tuning.images has no effect: tuning.methods has nothing to try of any method",
    ),
    (
        "tuning: {methods: {dice: {weight: [0.5]}}}",
        "tuning.methods.dice has no effect: dice is not among the methods",
    ),
    (
        "method_options: {temperature: {start: ddcrf}}\nmethods: [ce, temperature]",
        "method_options.temperature.start: what ddcrf does inside the network has no effect on temperature",
    ),
    (
        "execution: {gpus_per_run: 2}\nresources: {gpu: 0}",
        "execution.gpus_per_run has no effect on jobs of Snakemake: resources.gpu is 0",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), EFFECTS, ids=[change for change, _ in EFFECTS])
def test_what_has_no_effect_is_said(change: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = sentences(change, BASE, capsys)
    assert line.startswith("structseg: ") and sentence in line


@pytest.mark.parametrize(
    "change",
    [
        "{}",
        "seeds: [0, 1, 2]",
        "methods: [ce, rmi]",
        "training: {per_dataset: {digits: {iterations: 50}}}",
        "training: {iterations: 640}",
        "training: {scale: [0.5, 1], scale_step: 0.25, crop: [32, 32]}",
        "training: {scale: [0.5, 2.0], scale_step: 0.1, crop: [32, 32]}",
        "method_options: {rmi: {radius: 2}}",
        "method_options: {mine: {module: ce}}\nmethods: [ce, mine]",
        "method_options: {further: {module: ddcrf, start: ddcrf}}\nmethods: [ce, further]",
    ],
)
def test_nothing_is_said_of_what_has_one(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentences(change, BASE, capsys) == []


@pytest.mark.parametrize("preset", sorted((ROOT / "workflow/presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_have_no_idle_settings(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading.load([preset], base=BASE)
    assert not capsys.readouterr().err
