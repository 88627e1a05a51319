"""What a finished run is, by its files alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from common.config.entries import Config
from common.errors import UserError
from common.prediction.stored_run import StoredRun
from tests.common.datasets.prepared import call
from tests.common.prediction.conftest import CPU, scored
from tests.conftest import raise_recipe


def test_a_run_is_found_by_its_files_alone(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = scored(config, "crf-1")
    moved = tmp_path / "moved"
    shutil.copytree(config["results"], moved)
    monkeypatch.chdir(tmp_path)
    read = StoredRun.read(Path("moved", evaluated.folder.relative_to(config["results"])))
    assert (read.method, read.trained_entry.name, read.digest) == ("crf-1", "ce", evaluated.digest)
    assert read.entry.options["iterations"] == 1
    alone = tmp_path / "alone"
    shutil.copytree(evaluated.folder, alone)
    with pytest.raises(UserError, match=r"model.pt is missing: .*alone needs it"):
        StoredRun.read(alone)
    shutil.copy(evaluated.training.file, alone)
    assert StoredRun.read(alone).method == "crf-1"
    assert StoredRun.read(evaluated.training.file).method == "ce"
    with pytest.raises(UserError, match=r"has neither metrics.json nor model.pt"):
        StoredRun.read(tmp_path)


def test_texts_are_paths_and_results_have_no_gradients(config: Config) -> None:
    predictor = StoredRun.read(str(scored(config, "ddcrf").folder)).predictor("cpu")
    probabilities = predictor(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).probabilities
    assert probabilities.shape == (1, 11, 64, 64) and not probabilities.requires_grad


def test_the_model_of_a_run_is_the_one_whose_scores_it_has(config: Config, tmp_path: Path) -> None:
    """However it came there: the pictures that it predicts would be another model's."""
    folder = tmp_path / "run"
    shutil.copytree(scored(config, "ce").folder, folder)
    shutil.copy(scored(config, "ddcrf").training.file, folder)
    with pytest.raises(UserError, match=r"model.pt is another model than the one whose scores are in .*run"):
        StoredRun.read(folder)


def test_a_model_that_does_not_fit_the_code_is_one_sentence(config: Config, tmp_path: Path) -> None:
    model = torch.load(scored(config, "ce").training.file, weights_only=True)
    model["model_options"]["decoder_channels"] = 9
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not fit the code") as caught:
        StoredRun.read(tmp_path).predictor(CPU)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("verb", ["predict", "export"])
def test_a_model_of_an_unknown_architecture_is_one_sentence(
    verb: str, config: Config, images: Path, tmp_path: Path
) -> None:
    model = torch.load(scored(config, "ce").training.file, weights_only=True)
    torch.save(model | {"model": "nonet-resnet18"}, tmp_path / "model.pt")
    output = str(tmp_path / "output.pt2")
    wanted = {"predict": [str(images), "--output", output], "export": [output]}
    status, errors = call(verb, "--run", str(tmp_path), *wanted[verb])
    sentence = "models: 'nonet-resnet18' must be <architecture>-<backbone> with one of the architectures"
    assert status == 2 and sentence in errors and "Traceback" not in errors


def test_a_method_that_was_edited_is_pointed_out(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    StoredRun.read(scored(config, "ce").training.folder)
    assert capsys.readouterr().err == ""
    model = torch.load(scored(config, "ce").training.file, weights_only=True) | {"method_code": "0"}
    torch.save(model, tmp_path / "model.pt")
    StoredRun.read(tmp_path)
    assert "methods/ce.py has changed since this run" in capsys.readouterr().err


def test_what_an_older_recipe_made_is_used_and_pointed_out(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored(config, "crf-1")
    StoredRun.read(run.folder)
    assert capsys.readouterr().err == ""
    raise_recipe(monkeypatch, "SCORING")
    assert StoredRun.read(run.folder).method == "crf-1"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run.folder} is of scoring recipe 1, and this code has recipe 2 (scoring is new)" in line
    raise_recipe(monkeypatch, "TRAINING")
    StoredRun.read(run.training.file)
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.pt is of training recipe 1, and this code has recipe 2 (training is new)" in line
    without = torch.load(run.training.file, weights_only=True)
    without.pop("recipe")
    torch.save(without, tmp_path / "model.pt")
    StoredRun.read(tmp_path)
    assert "is of training recipe 0, and" in capsys.readouterr().err
