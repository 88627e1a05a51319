"""Trainings that start from another one's model: with all of it, or with the network as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import reading
from common.config.entries import Config
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import Training
from common.runs.records import TrainedModel, read_log
from common.stages import prepare, train
from common.training.checkpoints import Checkpoints

MODEL = "deeplabv3plus-test_resnet"
TUNED = {"module": "ce", "start": "ce", "training": {"iterations": 4}}
FITTED = {"module": "ddcrf", "iterations": 2, "start": "ce", "freeze": "network"}


def complete(settings: dict[str, Any], **entries: Any) -> Config:
    return reading.complete(settings | {"methods": ["ce", *entries], "method_options": entries})


def planned(config: Config, method: str, member: int = 0) -> Training:
    training = plan.training(config, "digits", MODEL, method, 0, member)
    if not training.data.path.exists():
        prepare.prepare(training.data)
    return training


def trained(config: Config, method: str, member: int = 0) -> TrainedModel:
    training = planned(config, method, member)
    train.train(training, plan.execution(config), config)
    return TrainedModel.read(training.file, training)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_goes_on_from_another_one(tiny: Config) -> None:
    tiny["training"]["learning_rate"] = 1e-9  # so that hardly anything changes
    config = complete(tiny, tuned=TUNED)
    first = trained(config, "ce")
    second = trained(config, "tuned")
    for key, value in second.network.items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, first.network[key], atol=1e-6, rtol=0)
    assert not same(first.network, second.network)
    assert second.start and second.start.state_sha256 == first.state_sha256
    assert second.facts.start == first.facts and first.start is None


def test_a_frozen_network_stays_and_the_method_is_trained(tiny: Config) -> None:
    config = complete(tiny, fitted=FITTED)
    first = trained(config, "ce")
    fitted = trained(config, "fitted")
    assert same(first.network, fitted.network), "BatchNorm's statistics, too"
    assert fitted.state_sha256 != first.state_sha256
    further = complete(tiny, fitted=FITTED, further=FITTED | {"start": "fitted"})
    second = trained(further, "further")
    assert same(first.network, second.network) and not same(fitted.method_state, second.method_state)
    assert second.facts.start and second.facts.start.start == first.facts, "what it began with is told"


def test_what_is_fitted_after_a_frozen_network_may_see_other_images(tiny: Config) -> None:
    fitted = {"module": "temperature", "start": "ce", "freeze": "network", "training": {"split": "val"}}
    config = complete(tiny, temperature=fitted, other=fitted | {"training": {}})
    first = trained(config, "ce")
    own, other = (trained(config, name) for name in ("temperature", "other"))
    assert same(first.network, own.network)
    assert not same(own.method_state, other.method_state), "of the same steps, on other images"
    assert planned(config, "temperature").settings.split == "val"


def test_the_method_starts_from_its_state_if_it_is_of_one_module(tiny: Config) -> None:
    tiny["training"]["learning_rate"] = 1e-9
    own = {"module": "ddcrf", "iterations": 2}
    config = complete(tiny, first=own, second=own | {"start": "first"}, third=TUNED | {"start": "first"})
    first, second, third = (trained(config, name) for name in ("first", "second", "third"))
    for key, value in second.method_state.items():
        torch.testing.assert_close(value, first.method_state[key], atol=1e-6, rtol=0)
    assert first.method_state and not third.method_state


def test_a_method_without_parameters_cannot_be_trained_alone(tiny: Config) -> None:
    config = complete(tiny, fixed={"module": "rmi", "pool_size": 2, "start": "ce", "freeze": "network"})
    trained(config, "ce")
    with pytest.raises(UserError, match=r"method_options.fixed.freeze: methods/rmi.py has no parameters"):
        trained(config, "fixed")


def test_a_method_of_other_parameters_is_a_sentence(tiny: Config) -> None:
    own = {"module": "ddcrf", "iterations": 2}
    config = complete(tiny, first=own, second=own | {"learn_gamma": True, "start": "first"})
    trained(config, "first")
    with pytest.raises(UserError, match="method_options.second.start: the model of first does not fit"):
        trained(config, "second")


def test_without_the_other_model_there_is_a_sentence(tiny: Config) -> None:
    with pytest.raises(UserError, match=r"/ce/seed0-\w+/model.pt is missing: run the train stage first"):
        trained(complete(tiny, tuned=TUNED), "tuned")


@pytest.mark.parametrize("own", [TUNED, FITTED], ids=["tuned", "fitted"])
def test_what_was_interrupted_ends_the_same(
    own: dict[str, Any], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = complete(tiny, other=own)
    trained(config, "ce")
    whole = trained(config, "other")
    again = config | {"results": str(tmp_path / "again")}
    trained(again, "ce")

    class Killed(Exception):
        pass

    def kill(self: Checkpoints) -> None:
        self.wait()
        if self.current.exists():
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "look", kill)
        trained(again, "other")
    assert (planned(again, "other").state / "checkpoint.pt").exists()
    resumed = trained(again, "other")
    assert resumed.state_sha256 == whole.state_sha256 and resumed.earlier and resumed.start
    assert [line.iteration for line in read_log(planned(again, "other").log)] == [1, 2, 3, 4]


def test_members_differ_and_have_the_streams_of_their_own(tiny: Config) -> None:
    config = complete(tiny, both={"ensemble": {"of": "ce", "members": 2}})
    models = [trained(config, "ce", member) for member in (0, 1)]
    assert [model.member for model in models] == [0, 1] and [model.seed for model in models] == [0, 0]
    assert not same(models[0].network, models[1].network)


def test_two_processes_train_what_one_does(tiny: Config, tmp_path: Path) -> None:
    """BatchNorm of a frozen network needs not be synchronised: it stays as it is."""
    tiny["training"]["batch_size"] = 4
    states = []
    for processes in (1, 2):
        own = FITTED | {"training": {"learning_rate": 0.01}}
        config = complete(tiny | {"results": str(tmp_path / str(processes))}, fitted=own)
        trained(config, "ce")
        execution = config["execution"] | {"gpus_per_run": processes}
        states.append(trained(config | {"execution": execution}, "fitted"))
        assert states[-1].processes == processes
    one, two = states
    assert same(one.network, two.network)
    for key, value in two.method_state.items():
        torch.testing.assert_close(value, one.method_state[key], atol=1e-4, rtol=0)
