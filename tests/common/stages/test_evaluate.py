"""The scores of a run, and how scoring fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from common.config import reading
from common.config.entries import Config
from common.failures import Failure
from common.files import read_json
from common.runs import plan
from common.runs.jobs import ReadRun
from common.runs.records import Metrics
from common.scoring.counts import SplitCounts
from common.stages import entry, evaluate, prepare, train
from methods.base import Method


@pytest.fixture
def trained(tiny: dict) -> Config:
    """A configuration whose model is trained."""
    config = reading.complete(tiny)
    (run,) = plan.runs(config)
    prepare.prepare(run.data)
    train.train(run.training, plan.execution(config))
    return config


@pytest.mark.parametrize("hook", ["structure", "probabilities", "refine"])
def test_an_image_that_the_method_refuses_is_one_sentence(
    hook: str,
    trained: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise ValueError("images must be large")

    monkeypatch.setattr(Method, hook, refuse)
    (run,) = plan.runs(trained)
    file = tmp_path / "configuration.yaml"
    file.write_text(yaml.safe_dump(trained))
    selection = {"dataset": run.dataset, "model": run.model, "method": run.method, "seed": str(run.seed)}
    arguments = ["--configfile", str(file), "--threads", "1"]
    arguments += [word for name, value in selection.items() for word in (f"--{name}", value)]
    with pytest.raises(SystemExit) as ended:
        entry.enter(evaluate, "evaluate", "Scores one run", arguments)
    sentence = f"methods/ce.py: {hook} refuses its input: images must be large"
    assert ended.value.code == 2 and f"structseg: {sentence}" in capsys.readouterr().err
    failure = Failure.read(run.error)
    assert (failure.error, failure.kind, failure.stage) == (sentence, "input", "evaluate")
    assert not run.metrics.exists()


def test_predictions_that_are_read_have_scores_without_a_model(tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    tiny |= {"methods": ["theirs"], "method_options": {"theirs": {"predictions": str(folder)}}}
    config = reading.complete(tiny)
    data = plan.preparation(config, "digits")
    prepare.prepare(data)
    folder.mkdir()
    for name in data.dataset.names("test"):
        Image.fromarray(data.dataset.read("test", name)[1]).save(folder / f"{name}.png")
    (run,) = plan.runs(config)
    assert isinstance(run, ReadRun)
    evaluate.evaluate(run, plan.execution(config))
    metrics = Metrics.read(run)
    assert metrics.miou == metrics.pixel_accuracy == 1
    assert metrics.predictions is not None and metrics.predictions.folder == str(folder)
    assert metrics.trained is metrics.trained_as is metrics.ece is None and metrics.diagnostics == {}
    assert SplitCounts.read(run.per_image).calibration is None
    assert read_json(run.metrics)["trained"] is None
