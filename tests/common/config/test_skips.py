"""Why a method is not run somewhere: as its class says, which is remembered, or the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import methods
from common.config import reading, skips
from common.config.skips import skip_reason
from common.errors import UserError
from common.runs import plan
from common.runs.jobs import TrainedRun

MODEL = "deeplabv3plus-test_resnet"
HEAD = '''"""A method of a user."""
from methods.base import Method


class Own(Method):
    """Says where it is not run."""

    grid = 2

    @classmethod
    def skip(cls, setting):
        '''


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    skips._remembered.cache_clear()
    yield
    skips._remembered.cache_clear()


def config(tiny: dict, **entries: dict) -> dict:
    """The configuration with entries of the user's method beside `ce`."""
    return reading.complete(tiny | {"methods": ["ce", *entries], "method_options": entries})


def test_a_class_is_asked_with_the_setting(tiny: dict, own_method: Callable[[str], str]) -> None:
    text = "return f'{setting.dataset} {setting.num_classes} {setting.model} {setting.output_stride}'"
    own_method(HEAD + text)
    assert skip_reason(config(tiny, own={}), "own", "digits", MODEL) == f"digits 11 {MODEL} 8"
    own_method(HEAD + "return 'of options' if setting.options else None")
    assert skip_reason(config(tiny, own={}), "own", "digits", MODEL) is None


def test_what_it_says_is_remembered(
    tiny: dict, own_method: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_method(HEAD + "return 'never'")
    complete = config(tiny, own={})
    assert skip_reason(complete, "own", "digits", MODEL) == "never"
    skips._remembered.cache_clear()  # as in another process
    monkeypatch.setattr(methods, "load", lambda name: pytest.fail(f"{name} was imported"))
    assert skip_reason(complete, "own", "digits", MODEL) == "never"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("return True", "methods/own.py: skip returns True, and must return a reason, a text, or None"),
        ("return ' '", "methods/own.py: skip returns ' ', and must return a reason"),
        ("return setting.size", r"methods/own.py:12: skip\(setting\) fails with AttributeError: 'Setting'"),
    ],
)
def test_what_it_cannot_say_is_one_sentence(
    text: str, sentence: str, tiny: dict, own_method: Callable[[str], str]
) -> None:
    own_method(HEAD + text)
    with pytest.raises(UserError, match=sentence):
        skip_reason(config(tiny, own={}), "own", "digits", MODEL)


def test_the_configuration_may_say_it(tiny: dict) -> None:
    entries = {
        "bce": {"skip": {"digits": "of the dataset"}},
        "dice": {"skip": {MODEL: "of the model", "camvid": "of another"}},
        "lovasz": {"skip": {"camvid": "of another"}},
        "crf-1": {"module": "densecrf", "trained_as": "bce"},
    }
    complete = config(tiny, **entries)
    reasons = {name: skip_reason(complete, name, "digits", MODEL) for name in complete["methods"]}
    assert reasons == {
        "ce": None,
        "bce": "of the dataset",
        "dice": "of the model",
        "lovasz": None,
        "crf-1": "it needs the model of bce: of the dataset",
    }
    benchmark = plan.benchmark(complete)
    assert [run.method for run in benchmark.runs] == ["ce", "lovasz"]
    assert {skip.method: skip.reason for skip in benchmark.skipped} == {
        name: reason for name, reason in reasons.items() if reason
    }
    with pytest.raises(UserError, match=f"^bce is not run on digits with {MODEL}: of the dataset$"):
        plan.run(complete, "digits", MODEL, "bce", 0)


@pytest.mark.parametrize(
    ("split", "training", "reason"),
    [
        ("val", {}, None),
        ("test", {}, "test, which it is to be fitted on, is what the tables score"),
        ("val", {"split": "train+val"}, "val, which it is to be fitted on, is what ce is trained on"),
        ("calibration", {}, "there is no split calibration to fit it on"),
    ],
)
def test_what_is_fitted_needs_images_that_nothing_else_sees(
    tiny: dict, split: str, training: dict, reason: str | None
) -> None:
    tiny["training"] |= training
    fitted = {"start": "ce", "freeze": "network", "training": {"split": split}}
    complete = config(
        tiny, temperature=fitted, **{"crf-1": {"module": "densecrf", "trained_as": "temperature"}}
    )
    assert skip_reason(complete, "ce", "digits", MODEL) is None
    assert skip_reason(complete, "temperature", "digits", MODEL) == reason
    needed = reason and f"it needs the model of temperature: {reason}"
    assert skip_reason(complete, "crf-1", "digits", MODEL) == needed


def test_labels_that_are_not_public_cannot_be_fitted(tiny: dict) -> None:
    fitted = {"start": "ce", "freeze": "network", "training": {"split": "test"}}
    scored = tiny | {"datasets": ["cityscapes"], "dataset_options": {"cityscapes": {"test": True}}}
    scored |= {"evaluation": {"split": "val"}}
    reason = skip_reason(config(scored, temperature=fitted), "temperature", "cityscapes", MODEL)
    assert reason == "the labels of test, which it is to be fitted on, are not public"


def test_something_must_be_left(tiny: dict) -> None:
    tiny["method_options"] = {"ce": {"skip": {"digits": "of no use"}}}
    with pytest.raises(UserError, match=f"methods: none is left on digits with {MODEL}: of no use"):
        plan.benchmark(reading.complete(tiny))


def test_no_digest_depends_on_it(tiny: dict) -> None:
    (plain,), (other,) = (
        [run for run in plan.runs(config(tiny, bce=entry)) if run.method == "bce"]
        for entry in ({}, {"skip": {"camvid": "of no use"}})
    )
    assert isinstance(plain, TrainedRun) and plain.digest == other.digest


def test_there_is_a_ceiling_for_each_grid_that_is_run(tiny: dict, own_method: Callable[[str], str]) -> None:
    own_method(HEAD + "return None")
    entries = {"own": {}, "own-1": {"module": "densecrf", "trained_as": "own"}, "crfrnn": {}}
    controls = plan.controls(config(tiny, **entries), "digits", MODEL)
    assert [control.label for control in controls] == ["majority", "ceiling", "ceiling 2x", "ceiling full"]
    plain = folders(config(tiny))
    assert [control.folder for control in controls[:2]] == plain, "of the network's own grid"
    assert len({control.digest for control in controls}) == 3
    own_method(HEAD + "return 'never'")
    assert folders(config(tiny, own={})) == plain
    grid = {"crfrnn-grid": {"module": "crfrnn", "grid": 1}}
    assert folders(config(tiny, **grid)) == plain


def folders(complete: dict) -> list[Path]:
    return [control.folder for control in plan.controls(complete, "digits", MODEL)]
