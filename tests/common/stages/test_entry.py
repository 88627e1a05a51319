"""The door: `python -m common <verb>`, as a user calls it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.__main__ import VERBS
from common.config import reading
from common.errors import NoDevice
from common.files import write_json
from common.stages import entry
from tests.conftest import ROOT, TINY, run

MODEL = "deeplabv3plus-test_resnet"
SELECTION = ("--dataset", "digits", "--model", MODEL, "--method", "ce", "--seed", "0")


def door(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return run("common", *arguments, cwd=ROOT, check=check)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a call that a user got wrong."""
    assert result.returncode == 2 and result.stdout == ""
    *effects, sentence = result.stderr.splitlines()
    assert all(" has no effect" in line for line in effects), "of the tiny configuration over config.yaml"
    assert sentence.startswith("structseg: ")
    return sentence.removeprefix("structseg: ")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_verbs_are_listed_with_a_line_each(arguments: tuple[str, ...]) -> None:
    lines = door(*arguments, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [*VERBS]
    assert all(len(line) < 100 for line in lines)


@pytest.mark.parametrize("arguments", [[], ["status"], ["status", "--help"]])
def test_what_computes_nothing_imports_no_pytorch(arguments: list[str]) -> None:
    code = (
        "import atexit, sys; from common.__main__ import main; "
        f"sys.argv = ['common', *{arguments!r}]; "
        "atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    for _ in range(2):  # the first may have to look at methods
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("predict", "--run", "/no/run", "a.jpg", "--output", "/no/where"),
            "/no/run has neither metrics.json",
        ),
        (("export", "--run", "/no/run", "model.pt2"), "/no/run has neither metrics.json"),
        (("check", "config", "camvid_gpus"), "check config: unknown preset 'camvid_gpus'"),
        (("check", "method", "rmj"), "check method: unknown module of methods/ 'rmj'"),
    ],
)
def test_a_wrong_name_is_refused_before_pytorch_is_imported(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemError('PyTorch was imported')")
    assert refused(run("common", *arguments, cwd=ROOT, check=False, PYTHONPATH=f"{tmp_path}")).startswith(
        sentence
    )


def test_every_stage_is_a_verb() -> None:
    files = {path.stem for path in (ROOT / "common/stages").glob("*.py")} - {"__init__", "entry"}
    assert {*VERBS} == files
    for verb in VERBS:
        stage = importlib.import_module(f"common.stages.{verb}")
        assert callable(stage.add_arguments) and callable(stage.run)


def test_an_unknown_verb_is_one_sentence() -> None:
    assert refused(door("trane")).startswith("there is no verb 'trane'; choose from prepare, train, evaluate")


def test_a_verb_takes_its_own_options_only() -> None:
    sentence = refused(door("status", "--seed", "0"))
    assert sentence.startswith("status: unknown option '--seed'")


def test_a_misspelt_option_is_named_not_the_one_that_is_missing() -> None:
    sentence = refused(door("train", "--dataset", "digits", "--sed", "0"))
    assert sentence.startswith("train: unknown option '--sed' (did you mean --seed?)"), sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--method", "rmii"), "--method: 'rmii' is not in the configuration; choose from ce"),
        (("--seed", "7"), "--seed: 7 is not in the configuration; choose from 0"),
        (
            ("--digest", "0" * 10),
            "what this job depends on, such as the code of the method, has changed since",
        ),
        (("--configfile", "none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_a_wrong_selection_is_one_sentence(change: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    assert refused(door("evaluate", "--configfile", str(file), *SELECTION, *change)).startswith(sentence)


def test_files_lie_over_config_yaml(tmp_path: Path) -> None:
    """A file with one key is enough, as for Snakemake."""
    file = tmp_path / "seeds.yaml"
    file.write_text("seeds: [7]\n")
    lines = door("status", "--configfile", str(file), check=True).stdout.splitlines()
    count = len(yaml.safe_load((ROOT / "config.yaml").read_text())["methods"])
    assert [line.split()[3] for line in lines[2 : 2 + count]] == ["7"] * count
    assert lines[-1] == f"{count} waiting"


def test_a_complete_configuration_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "complete.json"
    write_json(file, reading.complete(TINY | {"results": str(tmp_path / "results")}))
    lines = door("status", "--configfile", str(file), check=True).stdout.splitlines()
    assert lines[-1] == "1 waiting", "config.yaml has more methods and seeds"


def test_what_a_user_gets_wrong_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    class Stage:
        @staticmethod
        def add_arguments(parser: object) -> None: ...

        @staticmethod
        def run(arguments: object) -> None:
            raise NoDevice("there is no GPU: set execution.device to cpu")

    with pytest.raises(SystemExit) as ended:
        entry.enter(Stage, "train", "Trains", [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "structseg: there is no GPU: set execution.device to cpu\n"
