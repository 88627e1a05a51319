"""What entries change, start from and average, from the configuration to the plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from common.config import reading
from common.config.entries import Config, entry, model_options
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import TrainedRun
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"

OTHERS: dict[str, dict[str, Any]] = {
    "ce-tta": {"module": "ce", "evaluation": {"scales": [0.75, 1], "flip": True}},
    "ce-long": {"module": "ce", "training": {"iterations": 6}},
    "ce-coarse": {"module": "ce", "model": {"output_stride": 16}},
    "ce-ensemble": {"ensemble": {"of": "ce", "members": 3}},
    "ddcrf-fit": {"module": "ddcrf", "start": "ce", "freeze": "network", "training": {"iterations": 3}},
}
"""One entry of each kind."""

SEARCHED = {"candidates": 9, "settings": ["training.learning_rate", "weight"]}
"""What is told of a search for a learning rate and an option."""


def complete(**method_options: dict[str, Any]) -> Config:
    entries = TINY["method_options"] | copy.deepcopy(OTHERS) | method_options
    return reading.complete(TINY | {"methods": ["ce"], "method_options": entries})


def run(config: Config, name: str, seed: int = 0) -> TrainedRun:
    planned = plan.run(config, "digits", MODEL, name, seed)
    assert isinstance(planned, TrainedRun)
    return planned


def test_each_kind_is_planned_and_nothing_is_trained_twice() -> None:
    config = complete()
    ce = run(config, "ce")
    tta, ensemble, fit = (run(config, name) for name in ("ce-tta", "ce-ensemble", "ddcrf-fit"))
    assert tta.training.folder == ce.training.folder and tta.evaluation.flip and not ce.evaluation.flip
    assert ensemble.training.folder == ce.training.folder
    assert [one.member for one in ensemble.members] == [0, 1, 2]
    assert [one.method for one in fit.trainings] == ["ce", "ddcrf-fit"]
    assert fit.trainings[0].folder == ce.training.folder
    assert run(config, "ce-long").training.settings.iterations == 6
    assert run(config, "ce-coarse").training.model_options.output_stride == 16
    runs = [run(config, name) for name in ("ce", *OTHERS)]
    assert len({one.digest for one in runs}) == len(runs)
    folders = {training.folder for one in runs for training in one.trainings}
    assert len(folders) == 1 + 2 + 1 + 1 + 1, "ce, two members, long, coarse, fitted"


def test_members_have_streams_that_no_other_run_has() -> None:
    config = complete()
    streams = [member.stream for seed in range(20) for member in run(config, "ce-ensemble", seed).members]
    assert len({*streams}) == len(streams) == 60
    assert [run(config, "ce", seed).training.stream for seed in range(3)] == [0, 1, 2]


def test_an_ensemble_is_as_its_members() -> None:
    config = complete(
        rough={"ensemble": {"of": "ce-tta", "members": 2}},
        refined={"ensemble": {"of": "crf-1", "members": 2}},
        fits={"ensemble": {"of": "ddcrf-fit", "members": 2}},
    )
    assert run(config, "rough").evaluation == run(config, "ce-tta").evaluation
    refined = run(config, "refined")
    assert refined.entry.module == "densecrf" and refined.training.folder == run(config, "ce").training.folder
    first, second = run(config, "fits").members
    assert second.start and second.start.stream == second.stream != first.stream
    assert len(run(config, "fits").trainings) == 4


def test_what_is_set_for_a_dataset_is_laid_over_an_entry() -> None:
    own = {"module": "ce", "training": {"iterations": 6, "batch_size": 3}}
    over = {"per_dataset": {"digits": {"training": {"iterations": 8}, "tuned": {"candidates": 9}}}}
    training = run(complete(x=own | over), "x").training
    assert (training.settings.iterations, training.settings.batch_size) == (8, 3)
    assert training.entry.tuned == {"candidates": 9}


def test_an_entry_goes_before_models_and_datasets() -> None:
    config = copy.deepcopy(TINY)
    config["training"] |= {"per_dataset": {"digits": {"warmup": 1}}, "per_model": {MODEL: {"warmup": 2}}}
    config["method_options"] = {"x": {"module": "ce", "training": {"warmup": 3}}}
    complete = reading.complete(config)
    assert (
        run(complete, "x").training.settings.warmup == 3 and run(complete, "ce").training.settings.warmup == 2
    )


@pytest.mark.parametrize(
    "more",
    [
        {"tuned": {"search": "x", "candidates": 5}},
        {"skip": {"voc": "not there"}},
        {"training": {}},
        {"model": {}},
    ],
    ids=str,
)
def test_what_changes_nothing_changes_no_digest(more: dict[str, Any]) -> None:
    before = run(complete(x={"module": "rmi"}), "x")
    after = run(complete(x={"module": "rmi"} | more), "x")
    assert (before.digest, before.training.digest) == (after.digest, after.training.digest)


def test_what_a_training_starts_from_is_in_its_digest() -> None:
    def digest(start: str, freeze: str | None = None, **ce: Any) -> str:
        config = complete(x={"module": "ddcrf", "start": start, "freeze": freeze}, y={"module": "ce"} | ce)
        return run(config, "x").training.digest

    assert digest("y", training={"iterations": 9}) != digest("y")
    assert len({digest("ce"), digest("bce"), digest("ce", "network")}) == 3


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        ({"module": "densecrf", "iterations": 3}, "method"),
        ({"module": "ce", "start": "bce", "training": {"iterations": 9}}, "method"),
        ({"module": "rmi", "training": {"learning_rate": 0.1}, "tuned": SEARCHED}, "method"),
        ({"module": "ce", "training": {"iterations": 9}, "tuned": SEARCHED}, "alternative"),
        (
            {"module": "ce", "training": {"iterations": 9, "learning_rate": 0.1}, "tuned": SEARCHED},
            "alternative",
        ),
        *((own, "alternative") for name, own in OTHERS.items() if "start" not in own),
    ],
    ids=str,
)
def test_kinds_of_rows(own: dict[str, Any], kind: str) -> None:
    assert run(complete(x=own), "x").kind == kind


def test_a_method_that_is_trained_otherwise_stays_one() -> None:
    assert run(complete(rmi={"training": {"iterations": 7}}), "rmi").kind == "method"


@pytest.mark.parametrize(
    ("change", "rates", "multiple"),
    [({}, [6, 12, 18], 16), ({"output_stride": 8}, [12, 24, 36], 8), ({"dropout": 0}, [6, 12, 18], 16)],
    ids=str,
)
def test_what_follows_from_the_output_stride_follows_it(
    change: dict, rates: list[int], multiple: int
) -> None:
    config = reading.complete(
        TINY
        | {
            "model_options": {MODEL: {"weights": "none"}},
            "method_options": {"x": {"module": "ce", "model": change}},
        }
    )
    options = model_options(config, MODEL, entry(config, "x", "digits"))  # type: ignore[arg-type]
    assert (options["atrous_rates"], options["input_multiple"]) == (rates, multiple)
    again = reading.complete(config)
    assert model_options(again, MODEL, entry(again, "x", "digits")) == options  # type: ignore[arg-type]


WRONG = [
    ("x: {module: ce, training: {itrations: 5}}", r"method_options.x.training: unknown key 'itrations' \(did you mean iterations\?\)"),
    ("x: {module: ce, training: 5}", "method_options.x.training: 5 must be a mapping"),
    ("x: {module: ce, training: {iterations: 0}}", "method_options.x.training.iterations: 0 must be an integer from 1"),
    ("x: {module: ce, training: {warmup: 4}}", r"method_options.x.training.warmup \(for digits\): 4 must be less than the 4"),
    ("x: {module: ce, training: {scale: [0.5, 2]}}", r"method_options.x.training.crop \(for digits\): images of random scale"),
    ("x: {module: ce, training: {split: val}}", "method_options.x.training.split: all rows of a table are trained on the same"),
    ("x: {module: ce, evaluation: {split: val}}", "method_options.x.evaluation.split: all rows of a table are scored on the same"),
    ("x: {module: ce, evaluation: {scales: []}}", r"method_options.x.evaluation.scales: \[\] must be a list of at least 1"),
    ("x: {module: ce, model: {output_stride: 4}}", "method_options.x.model.output_stride: 4 must be 8, 16, 32 or null"),
    ("x: {module: ce, model: {output_stride: 32}}", "method_options.x.model.output_stride: 32 is too coarse for deeplabv3plus"),
    ("x: {module: ce, per_dataset: {digits: {training: {flop: true}}}}", "method_options.x.per_dataset.digits.training: unknown key 'flop'"),
    ("x: {module: ce, per_dataset: {digits: {start: bce}}}", "method_options.x.per_dataset.digits.start: an entry is one method"),
    ("x: {module: ce, per_dataset: {digits: {module: bce}}}", "method_options.x.per_dataset.digits.module: an entry is one method"),
    ("x: {module: ce, per_dataset: {digits: {skip: never}}}", "method_options.x.per_dataset.digits.skip: 'never' must be a mapping"),
    ("x: {module: ce, per_dataset: {digits: {model: 3}}}", "method_options.x.per_dataset.digits.model: 3 must be a mapping"),
    ("x: {module: ce, start: cee}", r"method_options.x.start: unknown method 'cee' \(did you mean ce\?\)"),
    ("x: {module: ce, start: x}", "method_options.x.start: x → x is a circle"),
    ("x: {module: ce, start: y}\n  y: {module: bce, start: x}", "method_options.x.start: x → y → x is a circle"),
    ("x: {module: ce, start: crf-1}", "method_options.x.start: crf-1 trains no model itself: name ce"),
    ("x: {module: ce, start: y}\n  y: {ensemble: {of: ce, members: 2}}", "method_options.x.start: y trains no model itself: name ce"),
    ("x: {module: ce, start: y}\n  y: {predictions: y}", "method_options.x.start: y is read from a folder"),
    ("x: {module: ce, start: bce, trained_as: ce}", "method_options.x.start: x trains no model itself, but uses that of ce"),
    ("x: {module: ce, trained_as: ce, training: {flip: false}}", "method_options.x.training: x trains no model itself"),
    ("x: {module: rmi, trained_as: ce}", "x.trained_as: methods/rmi.py does nothing after the network, so this would be ce"),
    ("x: {module: ddcrf, trained_as: ddcrf, iterations: 9}", "x.iterations: 9 has no effect: the model of ddcrf has 5"),
    ("x: {module: densecrf, model: {dropout: 0}}", "method_options.x.model: x trains no model itself, but uses that of ce"),
    ("x: {module: ce, freeze: network}", "method_options.x.freeze: what is frozen must be trained before"),
    ("x: {module: ce, start: bce, freeze: all}", "method_options.x.freeze: 'all' must be network or null"),
    ("x: {module: ce, start: y}\n  y: {module: ce, model: {decoder_channels: 9}}", r"method_options.x.start: the network of y is another one \(decoder_channels 9, not 8\)"),
    ("x: {ensemble: {of: ce, members: 1}}", "method_options.x.ensemble.members: 1 must be an integer from 2 to 100"),
    ("x: {ensemble: {of: ce}}", "method_options.x.ensemble: members is missing"),
    ("x: {ensemble: {of: cee, members: 2}}", r"method_options.x.ensemble.of: unknown method 'cee' \(did you mean ce\?\)"),
    ("x: {ensemble: {of: x, members: 2}}", "method_options.x.ensemble.of: x is an ensemble"),
    ("x: {ensemble: {of: y, members: 2}}\n  y: {ensemble: {of: x, members: 2}}", "method_options.x.ensemble.of: y is an ensemble"),
    ("x: {ensemble: {of: y, members: 2}}\n  y: {predictions: y}", "method_options.x.ensemble.of: y is read from a folder"),
    ("x: {ensemble: {of: ce, members: 2}, training: {flip: true}}", "method_options.x: the members of an ensemble are as ce says: remove training"),
    ("ce: {ensemble: {of: bce, members: 2}}", "method_options.ce: there is a methods/ce.py, and this entry is another"),
    ("x: {module: ce, start: 'a b'}", "method_options.x.start: 'a b' can be no name"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "sentence"), WRONG, ids=[entries for entries, _ in WRONG])
def test_wrong_entries_are_one_sentence(entries: str, sentence: str) -> None:
    own = yaml.safe_load(f"  {entries}")
    with pytest.raises(UserError, match=sentence) as caught:
        reading.complete(
            TINY | {"method_options": TINY["method_options"] | own, "methods": [*dict.fromkeys(["ce", *own])]}
        )
    assert "\n" not in str(caught.value)


def test_an_entry_that_only_looks_otherwise_needs_not_repeat_options() -> None:
    """Those that it does not set are those of the model that it uses."""
    looks = {"module": "rmi", "trained_as": "rmi", "evaluation": {"flip": True}}
    config = complete(rmi={"pool_size": 2}, x=looks, y=looks | {"pool_size": 2})
    assert run(config, "x").training.folder == run(config, "y").training.folder
    with pytest.raises(
        UserError, match="method_options.x.pool_size: 4 has no effect: the model of rmi has 2"
    ):
        complete(rmi={"pool_size": 2}, x=looks | {"per_dataset": {"digits": {"pool_size": 4}}})


def test_what_no_run_needs_need_not_fit() -> None:
    """The configuration describes what may be run elsewhere, with other models and lengths."""
    long = {"module": "ce", "training": {"warmup": 5000}, "model": {"output_stride": 32}}
    config = complete(long=long)
    with pytest.raises(UserError, match="method_options.long.model.output_stride: 32 is too coarse"):
        reading.complete(config | {"methods": ["ce", "long"]})


def test_a_network_may_start_at_another_stride() -> None:
    """As DeepLab does: trained at stride 16 and fine-tuned at 8, with frozen BatchNorm."""
    own = {"module": "ce", "start": "ce-coarse", "model": {"freeze_batchnorm": True}}
    training = run(complete(fine=own), "fine").training
    assert training.start and training.start.model_options.output_stride == 16
    assert training.model_options.output_stride == 8
