"""Digests: what makes a folder another one, and what does not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from common import config as configuration
from common import runs
from tests.conftest import TINY

MODEL = "deeplabv3plus-test_resnet"


def digests(change: dict | None = None, method: str = "rmi") -> tuple[str, str]:
    """The digests of the model and the run."""
    config = copy.deepcopy(TINY) | {"methods": [method]}
    for section, content in (change or {}).items():
        config[section] = config.get(section, {}) | content
    run = runs.run(configuration.complete(config), "digits", MODEL, method, 0)
    return run.training.digest, run.digest


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"iterations": 5}},
        {"training": {"per_dataset": {"digits": {"batch_size": 3}}}},
        {"dataset_options": {"digits": {"size": 50}}},
        {"model_options": {MODEL: {"weights": "none", "output_stride": 16}}},
        {"method_options": {"rmi": {"radius": 2}}},
    ],
    ids=str,
)
def test_what_matters_changes_the_digests(change: dict) -> None:
    before, after = digests(), digests(change)
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    "change",
    [
        {"execution": {"workers": 3, "log_every": 7}},
        {"resources": {"cpus": 7}},
        {"tables": {"baseline": "rmi"}},
        {"training": {"per_dataset": {"camvid": {"batch_size": 3}}}},
        {"method_options": {"rmi": {"radius": 3, "weight": 0.5}}},
        {"training": {"head_multiplier": 1, "scale": [1.0, 1.0]}},
        {"method_options": {"crf-9": {"module": "densecrf"}}},
    ],
    ids=str,
)
def test_what_does_not_matter_does_not(change: dict) -> None:
    assert digests() == digests(change)


def test_evaluation_settings_belong_to_the_run_alone() -> None:
    before, after = digests(), digests({"evaluation": {"split": "val"}})
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_where_files_lie_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration.complete(TINY | {"datasets": ["camvid"]})
    here = runs.manifest(config, "camvid")
    monkeypatch.setenv("CAMVID_ROOT", "/elsewhere")
    config["dataset_options"]["camvid"] = {"root": "/there"}
    assert runs.manifest(config, "camvid") == here
    weights = {MODEL: {"weights": "/a/x.pt", "output_stride": 8}}
    elsewhere = {MODEL: {"weights": "/b/x.pt", "output_stride": 8}}
    assert digests({"model_options": weights}) == digests({"model_options": elsewhere})


def test_nothing_is_trained_twice() -> None:
    config = configuration.complete(TINY | {"methods": ["ce", "crf-1"], "seeds": [0, 1]})
    found = runs.runs(config)
    assert len(found) == 4
    assert len({run.training.folder for run in found}) == 2
    assert len({run.folder for run in found}) == 4


CODE = '''"""A method."""
from methods.base import Method


class Example(Method):
    """Says what it is."""

    def __init__(self, k, c, a: float = 1.0):
        """Says more."""
        super().__init__(k, c)  # a comment
        self.a = a
'''


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runs, "METHODS", tmp_path)
    runs.code_digest.cache_clear()
    (tmp_path / "example.py").write_text(CODE)
    (tmp_path / "other.py").write_text("A = 1\n")
    yield tmp_path / "example.py"
    runs.code_digest.cache_clear()


def digest_of(path: Path, text: str) -> str:
    path.write_text(text)
    runs.code_digest.cache_clear()
    return runs.code_digest("example")


@pytest.mark.parametrize(
    "same",
    [
        CODE.replace("# a comment", "# another"),
        CODE.replace("Says more.", "Says less."),
        CODE.replace('"""Says what it is."""', "pass").replace("\n    pass\n", "\n"),
        CODE.replace("\n\n\n", "\n\n\n\n"),
        CODE.replace("(k, c)  #", "(\n            k,\n            c,\n        )  #"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(code: Path, same: str) -> None:
    assert digest_of(code, same) == digest_of(code, CODE)


@pytest.mark.parametrize("old_new", [("1.0", "2.0"), ("self.a = a", "self.a = -a"), ("self.a", "self.b")])
def test_code_counts(code: Path, old_new: tuple[str, str]) -> None:
    assert digest_of(code, CODE.replace(*old_new)) != digest_of(code, CODE)


@pytest.mark.parametrize(
    "line",
    [
        "from methods.other import A",
        "from methods import other",
        "import methods.other",
        "from .other import A",
    ],
)
def test_imported_methods_count(code: Path, line: str) -> None:
    before = digest_of(code, f"{line}\n{CODE}")
    (code.parent / "other.py").write_text("A = 2\n")
    assert digest_of(code, f"{line}\n{CODE}") != before
    (code.parent / "other.py").write_text("A = 1  # as before\n")
    assert digest_of(code, f"{line}\n{CODE}") == before


def test_the_digest_is_the_same_on_every_version_of_python(code: Path) -> None:
    """A value that was computed with Python 3.11; 3.12 and 3.13 changed the syntax tree's dump."""
    assert digest_of(code, CODE)[:12] == "47a395248753"
