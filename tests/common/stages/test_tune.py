"""Searches for the settings of entries: on images that are not scored, for each as many candidates."""

from __future__ import annotations

import argparse
import copy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from common.config import reading, tuning, tuning_checks
from common.config.entries import Config
from common.errors import Diverged, UserError
from common.prediction.predictor import Predictor
from common.provenance import Provenance
from common.runs import plan, searches
from common.runs.jobs import TrainedRun
from common.runs.records import Chosen, Trial
from common.runs.searches import Search
from common.scoring import halving
from common.scoring.candidates import spread
from common.stages import prepare, train, tune
from methods.base import Refinable
from methods.densecrf import DenseCRF
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"
CRF = {"iterations": [1, 2], "bilateral": [[3, 10], [20], [3]]}
RATES = {"training.learning_rate": [0.0001, 0.001, 0.01], "training.weight_decay": [0.01, 0.1]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose dataset is prepared and whose one run is trained."""
    torch.set_num_threads(1)
    results = str(tmp_path_factory.mktemp("finished") / "results")
    asked = {"results": results, "methods": ["ce", "crf-1"]}
    asked |= {"tuning": {"methods": {"crf-1": CRF, "ce": RATES}}}
    config = reading.complete(copy.deepcopy(TINY) | asked)
    run = plan.run(config, "digits", MODEL, "ce", 0)
    assert isinstance(run, TrainedRun)
    prepare.prepare(run.data)
    train.train(run.training, plan.execution(config))
    return config


@pytest.fixture
def config(finished: Config, tmp_path: Path) -> Config:
    """The same, in a folder of its own."""
    shutil.copytree(finished["results"], tmp_path / "results")
    return finished | {"results": str(tmp_path / "results")}


@pytest.fixture
def quick(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A search in which nothing is trained and scores go by the candidate: the last one is the best."""

    def score(search: Search, run: TrainedRun, candidate: int, *_: object) -> Trial:
        iterations = run.training.settings.iterations
        now = Provenance.now("cpu")
        return Trial(candidate=candidate, iterations=iterations, miou=50 + candidate, provenance=now)

    monkeypatch.setattr(tune, "train", lambda *_: None)
    monkeypatch.setattr(tune, "_score", score)
    return changed(config, candidates=3, rungs=[0.5, 1])


def planned(config: Config, method: str = "crf-1") -> Search:
    return searches.search(config, "digits", MODEL, method)


def search(config: Config, method: str = "crf-1") -> Search:
    """Searches, and says where the results are."""
    job = planned(config, method)
    tune.tune(job, plan.execution(config))
    return job


def changed(config: Config, **settings: object) -> Config:
    return config | {"tuning": config["tuning"] | settings}


# What is tried


def test_every_entry_has_as_many_candidates_itself_among_them(config: Config) -> None:
    config = changed(config, candidates=4)
    jobs = searches.searches(config)
    assert [(job.run.method, len(job.candidates), job.possible) for job in jobs] == [
        ("ce", 4, 7),
        ("crf-1", 4, 5),
    ]
    assert all(job.candidates[0] == tuning.Candidate() for job in jobs)
    assert len({str(planned(config).values(index)) for index in range(4)}) == 4
    assert {tuning.budget(job.settings, 4) for job in jobs} == {1 + 1 + 2}


def test_what_is_skipped_is_not_searched(config: Config) -> None:
    skipping = {"method_options": {"crf-1": {"skip": {"digits": "no photographs"}}}}
    assert [job.run.method for job in searches.searches(reading.merge(config, skipping))] == ["ce"]


def test_a_small_grid_is_tried_whole_and_counts_the_entry_as_it_is_once(config: Config) -> None:
    assert len(planned(config).candidates) == planned(config).possible == 5
    grid = {"training.learning_rate": [0.001, 0.01, 0.01], "training.weight_decay": [0.0001]}
    job = planned(changed(config, methods={"ce": grid}), "ce")
    assert [job.values(index)["training.learning_rate"] for index in range(job.possible)] == [0.001, 0.01]


def test_values_may_be_multiples_of_the_own_ones(config: Config) -> None:
    grid = {"training.learning_rate": ["x0.5", "x1", "x3"], "training.optimizer": ["sgd", "adamw"]}
    job = planned(changed(config, methods={"ce": grid}), "ce")
    assert job.possible == 6 and job.candidates[1].training == {"learning_rate": 0.0005, "optimizer": "sgd"}
    assert {job.values(index)["training.learning_rate"] for index in range(6)} == {0.0005, 0.001, 0.003}


def test_the_sample_goes_by_the_seed_alone(config: Config) -> None:
    config = changed(config, candidates=3)
    backwards = changed(config, methods={"crf-1": dict(reversed(CRF.items()))})
    assert planned(backwards).candidates == planned(config).candidates
    assert planned(backwards).digest == planned(config).digest
    others = {str(planned(changed(config, seed=seed)).candidates) for seed in range(1000, 1008)}
    assert len(others) > 1


def test_rounds_cost_the_same_and_two_are_left() -> None:
    settings = tuning.settings(
        reading.complete({"datasets": ["digits"], "models": [MODEL], "methods": ["ce"], "seeds": [0]})
    )
    assert tuning.rungs(settings, 16) == ((0.25, 16), (0.5, 8), (1, 4))
    assert tuning.rungs(settings, 3) == ((0.25, 3), (0.5, 2), (1, 2))
    assert tuning.budget(settings, 16) == 12


def test_searching_reruns_nothing_else(config: Config) -> None:
    other = changed(config, images=1, seed=7, hold_out=0.3)
    assert [run.digest for run in plan.runs(other)] == [run.digest for run in plan.runs(config)]
    assert planned(other).digest != planned(config).digest
    assert planned(other).folder.parent == Path(config["results"]) / "tuning" / "digits" / MODEL


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split": "test"}, "test is what the tables score: choose another, or set tuning.hold_out"),
        ({"split": "train"}, "train is what is trained on"),
        ({"split": "vall"}, "unknown split 'vall'"),
        ({"seed": 0}, "tuning.seed: 0 is among the seeds whose results are shown"),
        ({"methods": {"ce": None}}, "tuning.methods: it has nothing to try of any of the methods"),
    ],
)
def test_what_no_search_can_be_made_with_is_refused(config: Config, settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tuning_checks.check_searches(changed(config, **settings))


def test_no_candidates_are_tried_on_what_an_entry_is_fitted_on(tiny: Config) -> None:
    fitted = {"start": "ce", "freeze": "network", "training": {"split": "val"}}
    tiny |= {"methods": ["ce", "temperature"], "method_options": {"temperature": fitted}}
    tiny["tuning"] = {"methods": {"temperature": {"training.learning_rate": [0.01, 0.1]}}}
    complete = reading.complete(tiny)
    with pytest.raises(UserError, match="val is what temperature is fitted on: leave temperature out"):
        tuning_checks.check_searches(complete)
    tuning_checks.check_searches(changed(complete, hold_out=0.5))


# Refinements of one model


def test_every_refinement_is_scored_on_the_validation_split(config: Config) -> None:
    job = search(config)
    table, chosen = pd.read_csv(job.table), Chosen.read(job.record)
    assert len(table) == chosen.candidates == 5 and chosen.spent == 0
    assert table["miou"].is_monotonic_decreasing and chosen.miou == pytest.approx(table["miou"][0])
    assert str(chosen.values["bilateral"]) == table["bilateral"][0]
    assert chosen.split == "val" and len(chosen.images) == 2
    assert "best of 5 candidates, all there are" in job.report.read_text()
    counts = [np.load(path)["counts"] for path in job.counts("refined").iterdir()]
    assert [x.shape for x in counts] == [(6, 11, 11)] * 2 and all((x.sum((1, 2)) > 0).all() for x in counts)


def test_what_is_chosen_is_laid_over_and_changes_the_entry_alone(config: Config) -> None:
    job = search(config)
    over = yaml.safe_load(job.chosen.read_text())
    laid = reading.complete(reading.merge(config, over))
    own = plan.run(laid, "digits", MODEL, "crf-1", 0).entry
    assert {key: own.options[key] for key in CRF} == Chosen.read(job.record).values
    search_place = f"tuning/digits/{MODEL}/{job.folder.name}"
    facts = {"search": search_place, "candidates": 5, "budget": 1.25 + 1.5 + 2}
    assert own.tuned == facts | {"settings": ["bilateral", "iterations"]}
    digests = [plan.run(each, "digits", MODEL, "ce", 0).digest for each in (laid, config)]
    assert digests[0] == digests[1]


def test_tuned_is_in_no_digest(config: Config) -> None:
    tuned = {"method_options": {"crf-1": {"per_dataset": {"digits": {"tuned": {"candidates": 5}}}}}}
    laid = reading.complete(reading.merge(config, tuned))
    digests = [plan.run(config, "digits", MODEL, "crf-1", 0).digest for config in (laid, config)]
    assert digests[0] == digests[1]


def test_nothing_helped_is_said(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseCRF, "refine", lambda self, images, probabilities: probabilities)
    job = search(config)
    assert "Nothing helped: no candidate is better than crf-1 as configured" in job.report.read_text()
    (settings,) = yaml.safe_load(job.chosen.read_text())["method_options"]["crf-1"]["per_dataset"].values()
    assert {*settings} == {"tuned"}


def test_an_interrupted_search_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    job = planned(config)
    unrefined, calls = Predictor.unrefined, []

    def interrupted(self: Predictor, images: torch.Tensor, kind: Refinable) -> torch.Tensor:
        calls.append(kind)
        if len(calls) == 3:  # at the second image; of each both kinds are computed
            raise KeyboardInterrupt
        return unrefined(self, images, kind)

    monkeypatch.setattr(Predictor, "unrefined", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(config)
    assert not job.record.exists()
    search(config)
    assert len(calls) == 5 and job.record.exists()
    monkeypatch.undo()
    again = pd.read_csv(job.table)
    damaged, other = job.counts("refined").iterdir()
    damaged.write_bytes(b"damaged")
    np.savez(other, name="another image", counts=np.zeros((6, 11, 11), dtype=int))
    search(config)
    pd.testing.assert_frame_equal(pd.read_csv(job.table), again)


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
    assert len(sums) == 10 and len({*sums}) == 2, "five candidates, two images"


@pytest.mark.parametrize("bad", ["nan", "0.5"])
def test_what_a_candidate_makes_of_later_images_is_looked_at(
    bad: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def worse(self: DenseCRF, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        calls.append(self)
        return probabilities * (1 if len(calls) < 6 else float(bad))

    monkeypatch.setattr(DenseCRF, "refine", worse)
    with pytest.raises(UserError, match=r"the probabilities of val-00001 (are not finite|have sums over)"):
        search(config)


def test_options_that_fit_no_image_are_one_sentence(config: Config) -> None:
    with pytest.raises(UserError, match="standard deviations are too small"):
        search(changed(config, methods={"crf-1": {"bilateral": [[1e-7], [1e-7], [3]]}}))


def test_images_are_spread_over_the_split() -> None:
    assert spread(5, None) == spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(101, 3) == [0, 50, 100]
    assert spread(7, 1) == [0]


# Candidates that are trained


def test_candidates_are_trained_in_rounds(config: Config) -> None:
    job = search(changed(config, candidates=3, rungs=[0.5, 1]), "ce")
    assert job.rungs == ((0.5, 3), (1, 2))
    rounds = [halving.trials(job, rung) for rung in range(2)]
    assert [[trial.iterations for trial in trials] for trials in rounds] == [[2] * 3, [4] * 2]
    best = [trial.candidate for trial in halving.ranked(rounds[0])]
    assert [trial.candidate for trial in rounds[1]] == (best[:2] if 0 in best[:2] else [best[0], 0])
    chosen, table = Chosen.read(job.record), pd.read_csv(job.table)
    finals = {trial.candidate: trial.miou for trial in rounds[1]}
    assert chosen.miou == max(finals.values()) and chosen.miou_before == finals[0]
    assert chosen.spent == chosen.budget == 3.5
    assert table["trained_for"].tolist() == [1, 1, 0.5] and len(table) == 3
    models = [*Path(config["results"]).glob("models/*/*/ce/seed1000-*/model.pt")]
    assert models == [job.run.training.file], "all are deleted but that of the entry as it is"


def test_what_is_trained_for_a_search_is_trained_with_no_seed_that_is_shown(config: Config) -> None:
    run, _ = planned(config, "ce").trial(1, 0)
    assert run.seed == 1000 and run.training.settings.iterations == 1
    whole, own = planned(config, "ce").trial(0, 2)
    assert whole.training.settings == plan.run(own, "digits", MODEL, "ce", 0).training.settings


def test_a_candidate_that_diverges_comes_last(quick: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def diverging(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:  # the entry as it is
            raise Diverged("the loss is not finite")

    monkeypatch.setattr(tune, "train", diverging)
    job = search(quick, "ce")
    first = Trial.read(job.scores(0, 0))
    assert first.miou is None and first.failure == "the loss is not finite"
    assert [trial.candidate for trial in halving.trials(job, 1)] == [2, 0], "it has another try at the end"
    assert Chosen.read(job.record).training == job.candidates[2].training


def test_a_search_of_which_no_candidate_has_an_end_is_one_sentence(
    quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*arguments: object) -> None:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(tune, "train", diverging)
    with pytest.raises(UserError, match=r"tuning.methods.ce: every candidate's training has diverged"):
        search(quick, "ce")


def test_nothing_is_tried_twice(quick: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tune, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(quick, "ce")
    search(quick, "ce")
    assert len(calls) == 3 + 1 + 2


def test_one_candidate_of_a_round_is_a_job_of_its_own(quick: Config) -> None:
    job = planned(quick, "ce")
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)

    def call(*more: str) -> None:
        common = ["--dataset", "digits", "--model", MODEL, "--method", "ce", "--digest", job.digest]
        arguments = parser.parse_args([*common, *more])
        arguments.config = quick
        tune.run(arguments)

    with pytest.raises(UserError, match=r"trials/0-0.json is missing"):
        call("--round", "1")
    for place in ("2", "0", "1"):
        call("--round", "0", "--place", place)
    call("--round", "1", "--place", "1")
    assert not job.record.exists() and Trial.read(job.scores(1, 1)).candidate == 0
    with pytest.raises(UserError, match="the rounds of ce have so many: 3, 2"):
        call("--round", "1", "--place", "2")
    call()
    assert Chosen.read(job.record).candidates == 3


def test_what_is_not_searched_is_named(quick: Config) -> None:
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    arguments = parser.parse_args(["--dataset", "digits", "--model", MODEL, "--method", "rmi"])
    arguments.config = quick
    with pytest.raises(UserError, match="nothing to try of 'rmi'; choose from ce, crf-1"):
        tune.run(arguments)


# Images that are held out


def test_what_is_held_out_is_not_trained_on(config: Config) -> None:
    job = search(changed(config, candidates=2, rungs=[1], hold_out=0.25, split="test"), "ce")
    chosen = Chosen.read(job.record)
    assert len(chosen.images) == 3 and chosen.split == "what is held out of train"
    assert all(name.startswith("train") for name in chosen.images)
    trained = job.trial(0, 0)[0].training
    assert trained.settings.hold_out and trained.settings.hold_out.share == 0.25


def test_refinements_of_a_model_that_has_not_seen_what_is_held_out(config: Config) -> None:
    job = search(changed(config, hold_out=0.25))
    chosen = Chosen.read(job.record)
    assert chosen.trained and chosen.trained.training["hold_out"] == {"share": 0.25, "seed": 1000}
    assert len(chosen.images) == 3
