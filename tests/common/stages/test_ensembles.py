"""Ensembles and other entries in the stages: scored, measured, predicted, verified, estimated and merged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import reading
from common.errors import UserError
from common.images import pictures
from common.prediction.export import export
from common.prediction.folder import PredictionFolder
from common.prediction.pictures import predict
from common.prediction.predictor import Predictor, labels_of
from common.prediction.stored_run import StoredRun
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.runs.merging import merge
from common.runs.records import Cost, Metrics
from common.runs.soundness import quick
from common.stages import evaluate, measure, prepare, train
from common.stages.status import status
from common.tables import costs, results
from common.tables.soundness import thorough
from common.timing import clock, estimates, inference
from tests.conftest import TINY

CPU = torch.device("cpu")
ENTRIES = {
    "ce-ensemble": {"ensemble": {"of": "ce", "members": 2}},
    "ce-tta": {"module": "ce", "evaluation": {"flip": True}},
    "ddcrf-fit": {
        "module": "ddcrf",
        "iterations": 2,
        "start": "bce",
        "freeze": "network",
        "training": {"iterations": 3},
    },
}


def benchmark(folder: Path) -> Benchmark:
    methods = {"methods": ["ce", *ENTRIES], "method_options": ENTRIES}
    return plan.benchmark(reading.complete(TINY | methods | {"results": str(folder)}))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Everything trained, scored and measured."""
    planned = benchmark(tmp_path_factory.mktemp("results"))
    prepare.prepare(planned.datasets[0])
    for training in {one.folder: one for run in planned.runs for one in run.trainings}.values():  # type: ignore[attr-defined]
        train.train(training, planned.execution)
    with pytest.MonkeyPatch.context() as patch:
        for module in (clock, inference):
            patch.setattr(module, "SECONDS", 0.0)  # few repetitions
        patch.setattr(measure, "LEAST_SECONDS", 0.0)
        for run in planned.runs:
            evaluate.evaluate(run, planned.execution)
            measure.measure(run, planned.execution)  # type: ignore[arg-type]
    return planned


def named(planned: Benchmark, name: str) -> TrainedRun:
    run = next(run for run in planned.runs if run.method == name)
    assert isinstance(run, TrainedRun)
    return run


def test_an_ensemble_averages_the_probabilities_of_its_members(done: Benchmark) -> None:
    run = named(done, "ce-ensemble")
    predictor = Predictor.of(run, CPU)
    image = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        single = [model.probabilities(image) for model in predictor.models]
        assert len(single) == 2 and not torch.allclose(*single)
        torch.testing.assert_close(predictor.unrefined(image), torch.stack(single).mean(dim=0))


def test_records_tell_of_all_models(done: Benchmark) -> None:
    run = named(done, "ce-ensemble")
    metrics, cost = Metrics.read(run), Cost.read(run)
    assert metrics.trained and metrics.trained_as == "ce"
    states = [metrics.trained.state_sha256, *(facts.state_sha256 for facts in metrics.members)]
    assert states == [cost.state_sha256, *cost.members_sha256] and len({*states}) == 2
    assert [facts.digest for facts in metrics.members] == [run.members[1].digest]
    assert cost.parameters == 2 * Cost.read(named(done, "ce")).parameters
    assert Metrics.read(named(done, "ce")).members == []


def test_costs_are_sums(done: Benchmark) -> None:
    """Of all members, and of what a training started from, which is no row here."""
    ensemble, fitted = (Cost.read(named(done, name)) for name in ("ce-ensemble", "ddcrf-fit"))
    (part,) = ensemble.training_parts
    assert (part.method, part.iterations, part.models) == ("ce", 4, 2)
    assert ensemble.training_seconds(4) == pytest.approx(2 * 4 * ensemble.training_step_ms / 1000)
    first, second = fitted.training_parts
    assert [(one.method, one.iterations, one.models) for one in (first, second)] == [
        ("bce", 4, 1),
        ("ddcrf-fit", 3, 1),
    ]
    rows = {row.method: row for row in results.rows_of(done, results.read_results(done))}
    minutes = costs.training_minutes([*rows.values()], fitted.device)
    spent = dict(zip(rows, minutes))
    assert spent["ce-ensemble"] == pytest.approx(2 * spent["ce"]) and spent["ce-tta"] == spent["ce"]
    own = fitted.training_step_ms * 3
    assert spent["ddcrf-fit"] == pytest.approx((first.step_ms * 4 + own) / 60_000)


def test_kinds(done: Benchmark) -> None:
    kinds = {run.method: run.kind for run in done.runs}  # type: ignore[attr-defined]
    assert kinds == {
        "ce": "method",
        "ce-ensemble": "alternative",
        "ce-tta": "alternative",
        "ddcrf-fit": "method",
    }


def test_status_and_verification(done: Benchmark) -> None:
    notes = {progress.run.method: progress.note for progress in status(done) if progress.state == "done"}
    assert notes == {
        "ce": "",
        "ce-ensemble": "averages 2 models of ce",
        "ce-tta": "uses the model of ce",
        "ddcrf-fit": "starts from the model of bce",
    }
    assert thorough(done) == []


def test_pictures_are_predicted_by_all_members(done: Benchmark, tmp_path: Path) -> None:
    run = named(done, "ce-ensemble")
    stored = StoredRun.read(run.folder)
    assert len(stored.others) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    folder = PredictionFolder(tmp_path / "out", False, False, False)
    predict(stored, pictures.find([tmp_path / "picture.png"], leave_out=lambda path: False), folder, CPU, 1)
    with torch.inference_mode():
        expected = labels_of(Predictor.of(run, CPU)(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    labels = np.asarray(Image.open(tmp_path / "out/labels/picture.png"))
    assert np.array_equal(labels, expected.numpy())
    with pytest.raises(UserError, match="ce-ensemble is an ensemble of 2 models, which cannot be exported"):
        export(stored, tmp_path / "x.pt", "torchscript")


def test_what_is_missing_or_replaced_is_told(done: Benchmark, tmp_path: Path) -> None:
    """In a copy: a member that is gone, and a model that another one started from and that is another now."""
    shutil.copytree(done.outputs.results, tmp_path / "results")
    copy = benchmark(tmp_path / "results")
    ensemble, fitted = named(copy, "ce-ensemble"), named(copy, "ddcrf-fit")
    other = named(copy, "ce").training
    member = ensemble.members[1]
    member.file.unlink()
    member.second_name.unlink()
    assert ensemble.lost and not named(copy, "ce").lost
    (progress,) = [one for one in status(copy) if one.run.method == "ce-ensemble"]
    assert "its model is gone" in progress.note
    with pytest.raises(UserError, match="is missing"):
        StoredRun.read(ensemble.folder)
    assert quick(ensemble) == []
    train.train(member, copy.execution)
    assert quick(ensemble) == [] and thorough(copy) == []
    shutil.copy(other.file, member.file)
    assert any("does not belong to its folder" in fault for fault in thorough(copy))
    assert fitted.training.start is not None


def test_the_estimate_counts_all_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "REPEATS", 1)
    planned = benchmark(tmp_path)
    prepare.prepare(planned.datasets[0])
    table = estimates.estimates(planned).set_index("method")
    assert table["to_train"].to_dict() == {"ce": 1, "ce-ensemble": 1, "ce-tta": 0, "ddcrf-fit": 2}
    assert (table["note"] == "").all() and table["training_hours"]["ddcrf-fit"] > 0


def test_members_are_merged(done: Benchmark, tmp_path: Path) -> None:
    assert "4 models, 4 runs" in merge(done.outputs.results, tmp_path / "results").text()
    assert thorough(benchmark(tmp_path / "results")) == []
