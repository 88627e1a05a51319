"""The search for a refining method's options: on a split that is not scored, and nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from common.config import checks, entries, reading
from common.config.entries import Config
from common.errors import UserError
from common.prediction.predictor import Predictor
from common.runs import plan
from common.runs.jobs import Tuning
from common.runs.records import Chosen
from common.scoring.candidates import spread
from common.stages import prepare, train, tune
from methods.base import Refinable
from methods.densecrf import DenseCRF

MODEL = "deeplabv3plus-test_resnet"


@pytest.fixture
def config(tiny: dict) -> Config:
    grid = {"iterations": [1, 2], "bilateral": [[3, 10], [20], [3]]}
    config = reading.complete(tiny | {"tuning": {"method": "crf-1", "grid": grid}})
    run = plan.tuning(config, "digits", MODEL).run
    prepare.prepare(run.data)
    train.train(run.training, plan.execution(config))
    return config


def search(config: Config) -> Tuning:
    """Searches, and says where the results are."""
    tuning = plan.tuning(config, "digits", MODEL)
    tune.tune(tuning, plan.execution(config))
    return tuning


def test_every_candidate_is_scored_on_the_validation_split(config: Config) -> None:
    tuning = search(config)
    table, chosen = pd.read_csv(tuning.table), Chosen.read(tuning)
    assert len(table) == chosen.candidates == 4
    assert table["miou"].is_monotonic_decreasing and chosen.miou == pytest.approx(table["miou"][0])
    assert str(chosen.options["bilateral"]) == table["bilateral"][0]
    assert chosen.split == "val" and len(chosen.images) == 2
    assert "best of 4 candidates" in tuning.report.read_text()
    counts = [np.load(path)["counts"] for path in tuning.state.iterdir()]
    assert [x.shape for x in counts] == [(5, 11, 11)] * 2 and all((x.sum((1, 2)) > 0).all() for x in counts)


def test_an_interrupted_search_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = plan.tuning(config, "digits", MODEL)
    unrefined, calls = Predictor.unrefined, []

    def interrupted(self: Predictor, images: torch.Tensor, kind: Refinable) -> torch.Tensor:
        calls.append(kind)
        if len(calls) == 3:  # at the second image; of each both kinds are computed
            raise KeyboardInterrupt
        return unrefined(self, images, kind)

    monkeypatch.setattr(Predictor, "unrefined", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(config)
    assert not tuning.chosen.exists()
    search(config)
    assert len(calls) == 5 and tuning.chosen.exists()
    monkeypatch.undo()
    again = pd.read_csv(tuning.table)
    damaged, other = tuning.state.iterdir()
    damaged.write_bytes(b"damaged")
    np.savez(other, name="another image", counts=np.zeros((5, 11, 11), dtype=int))
    search(config)
    pd.testing.assert_frame_equal(pd.read_csv(tuning.table), again)


def test_no_candidate_sees_what_another_changes_in_place(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    refine, sums = DenseCRF.refine, []

    def changing(self: DenseCRF, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        sums.append((int(images.sum()), float(probabilities.sum())))
        result = refine(self, images, probabilities).clone()
        images.zero_()
        probabilities.zero_()
        return result

    monkeypatch.setattr(DenseCRF, "refine", changing)
    search(config)
    assert len(sums) == 8 and len({*sums}) == 2, "four candidates, two images"


@pytest.mark.parametrize("bad", ["nan", "0.5"])
def test_what_a_candidate_makes_of_later_images_is_looked_at(
    bad: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def worse(self: DenseCRF, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        calls.append(self)
        return probabilities * (1 if len(calls) < 5 else float(bad))

    monkeypatch.setattr(DenseCRF, "refine", worse)
    with pytest.raises(UserError, match=r"the probabilities of val-00001 (are not finite|have sums over)"):
        search(config)


@pytest.mark.parametrize(
    ("split", "sentence"), [("test", "test is what the tables score"), ("vall", "unknown split 'vall'")]
)
def test_a_wrong_split_is_refused(config: Config, split: str, sentence: str) -> None:
    config["tuning"]["split"] = split
    with pytest.raises(UserError, match=sentence):
        checks.check_tuning_splits(config)


def test_images_are_spread_over_the_split() -> None:
    assert spread(5, None) == spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(101, 3) == [0, 50, 100]
    assert spread(7, 1) == [0]


def test_the_order_of_the_grid_does_not_matter(config: Config) -> None:
    grid = config["tuning"]["grid"]
    other = config | {"tuning": config["tuning"] | {"grid": dict(reversed(grid.items()))}}
    assert entries.tuning_grid(other) == entries.tuning_grid(config)
    assert plan.tuning(other, "digits", MODEL).digest == plan.tuning(config, "digits", MODEL).digest


def test_options_that_fit_no_image_are_one_sentence(config: Config) -> None:
    config["tuning"]["grid"] = {"bilateral": [[1e-7], [1e-7], [3]]}
    with pytest.raises(UserError, match="standard deviations are too small"):
        search(config)


def test_tuning_reruns_nothing_else(config: Config) -> None:
    other = config | {"tuning": config["tuning"] | {"images": 1}}
    assert [run.digest for run in plan.runs(other)] == [run.digest for run in plan.runs(config)]
    assert plan.tuning(other, "digits", MODEL).digest != plan.tuning(config, "digits", MODEL).digest


def test_its_folder_is_where_the_results_are(config: Config) -> None:
    folder = plan.tuning(config, "digits", MODEL).folder
    assert folder.parent == Path(config["results"]) / "tuning" / "digits" / MODEL
