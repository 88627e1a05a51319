"""One rule for the names of datasets, models, methods and splits; the results' folder; names of classes."""

from __future__ import annotations

from typing import Any

import pytest

from common.config import reading
from common.errors import UserError
from tests.conftest import TINY

MODEL = TINY["models"][0]
PARTS_OF_PATHS = ["a b", "../x", "a/b", ".", ".hidden", "-x", "x;touch INJECTED;echo", "$(id)", "a'b", 'a"b',
    "ce\n", "a\0b", "ä", "日本", "", "[a]", "{a}", "x" * 101]  # fmt: skip
RESERVED = ["majority", "ceiling", "class"]


def named(kind: str, name: str) -> dict[str, Any]:
    """A configuration in which something has a name."""
    crf = {"module": "densecrf", "iterations": 1}
    reusing = {name: {"module": "ce"}, "crf": crf | {"trained_as": name}}
    return TINY | {
        "dataset": {"datasets": ["digits", name], "dataset_options": {name: {"module": "digits"}}},
        "unused dataset": {"dataset_options": {name: {"module": "digits"}}},
        "model": {"models": [MODEL, name]},
        "unused model": {"model_options": TINY["model_options"] | {name: {}}},
        "method": {"methods": ["ce", name], "method_options": {name: {"module": "ce"}}},
        "unused method": {"method_options": {name: {"module": "ce"}}},
        "trained_as": {"methods": ["crf"], "method_options": reusing},
        "tuning.methods": {"tuning": {"methods": {name: None}}, "method_options": {name: crf}},
        "per_dataset": {"training": {"per_dataset": {name: {"flip": True}}}},
        "per_model": {"evaluation": {"per_model": {name: {"flip": True}}}},
    }[kind]  # fmt: skip


@pytest.mark.parametrize("name", [*PARTS_OF_PATHS, *RESERVED], ids=repr)
@pytest.mark.parametrize(
    "kind",
    ["dataset", "unused dataset", "model", "unused model", "method", "unused method", "trained_as",
     "tuning.methods", "per_dataset", "per_model"],
)  # fmt: skip
def test_what_can_be_no_name_is_one_sentence(kind: str, name: str) -> None:
    with pytest.raises(UserError, match="can be no name: it must begin|a name that the tables use") as caught:
        reading.complete(named(kind, name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "9", "rmi+crf-5", "A_b.c", "yes", "2023_01", "1e3", "x" * 100])
def test_what_can_be_a_name_is_one(name: str) -> None:
    config = reading.complete(named("method", name))
    assert config["methods"] == ["ce", name]


@pytest.mark.parametrize(
    "folder",
    [
        "a b",
        "a'b\"c",
        "日本 語",
        "$(touch X)",
        "`touch X`;touch Y",
        "a\\b",
        "*?[x]",
        "/tmp/a b",
        "../x",
        "1e3",
    ],
)
def test_results_may_lie_in_any_folder(folder: str) -> None:
    assert reading.complete(TINY | {"results": folder})["results"] == folder


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("", "results: '' must be a text that is not empty"),
        (" a", "blanks at its ends"),
        ("a\nb", "characters that cannot be seen"),
        ("a\u202eb", "characters that cannot be seen"),
        ("-x", "begins with - or ~"),
        ("~/x", "begins with - or ~"),
        ("a{seed}", "has braces in it"),
        ("s3://bucket/x", "is an address"),
        ("x" * 300, "too long for a path"),
        ("/".join(10 * ["x" * 200]), "too long for a path"),
        ("config.yaml", "is a file: name a folder"),
        (".", "is a folder of the code"),
        ("common/runs", "is a folder of the code"),
    ],
)
def test_folders_that_cannot_have_results_are_one_sentence(
    folder: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reading.__file__.rpartition("/common/")[0])
    with pytest.raises(UserError, match=f"results: .*{sentence}|{sentence}"):
        reading.complete(TINY | {"results": folder})


def streets(**options: Any) -> dict[str, Any]:
    """A configuration with a dataset of one's own."""
    folder = {"module": "folder", "root": "/data", "class_names": ["road", "car"]}
    return TINY | {"datasets": ["streets"], "dataset_options": {"streets": folder | options}}


@pytest.mark.parametrize(
    "name", ["$x^2$", "\\alpha", "=1+1", "-", "a|b", "<b>", "😀", "日本", "a b", "x" * 100]
)
def test_classes_may_be_called_anything(name: str) -> None:
    config = reading.complete(streets(class_names=[name, "other"]))
    assert config["dataset_options"]["streets"]["class_names"] == [name, "other"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["", "b"], "'' can be no name: it must have 1 to 100 characters"),
        (["a ", "b"], "no blanks at its ends"),
        (["a\nb", "b"], "none of them invisible"),
        (["a\tb", "b"], "none of them invisible"),
        (["\x1b[31m", "b"], "none of them invisible"),
        (["\u200b", "b"], "none of them invisible"),
        (["a\u2028b", "b"], "none of them invisible"),
        (["x" * 101, "b"], "1 to 100 characters"),
        (["a", "a"], "class_names must all differ"),
        (["\u00e9", "e\u0301"], "two names look the same"),
    ],
)
def test_names_of_classes_that_cannot_be_read_are_one_sentence(names: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=f"dataset_options.streets.*{sentence}") as caught:
        reading.complete(streets(class_names=names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["a b", "x;y", "$(id)", "\n"])
def test_splits_are_named_like_all_else(split: str) -> None:
    with pytest.raises(UserError, match=r"dataset_options.streets.splits: .* can be no name"):
        reading.complete(streets(splits=["train", "test", split]))
