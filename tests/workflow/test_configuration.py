"""Configurations as Snakemake reads them: nothing is lost on the way, and nothing of them reaches a shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import clone, run
from tests.workflow.commands import CONFIG, snakemake

FOLDER = "a b'c\"d$(touch X)`touch X`;touch X;*?[x]#%&|>X ä日\\"
"""Of results: in a shell, without quotes, it would run commands and write files."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a tiny configuration."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "twice.yaml").write_text("training: {iterations: 4}\nseeds: [0]\n\ntraining: {momentum: 0.9}\n")
    return folder


TRAINED_AS = (
    '{"z": {"module": "densecrf", "trained_as": "x;touch X;echo"}, "x;touch X;echo": {"module": "ce"}}'
)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--configfile", "twice.yaml"], "the key training is given twice, in lines 1 and 4"),
        (["--config", "seeds=[0]", "seeds=[1]"], "--config: seeds is given twice"),
        (["--config", "seeds=[0]", "--config", 'methods=["ce"]'], "--config is given 2 times"),
        (["--config", 'methods=["z"]', f"method_options={TRAINED_AS}"], "'x;touch X;echo' can be no name"),
        (["--config", "results=/proc/none"], "/proc/none cannot be written"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(
    arguments: list[str], sentence: str, folder: Path
) -> None:
    result = run("snakemake", "--cores", "1", *arguments, cwd=folder, check=False)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("structseg")]
    assert result.returncode == 2 and sentence in line and "Traceback" not in result.stderr
    assert not (folder / "X").exists()


def test_what_has_no_effect_is_said_once(folder: Path) -> None:
    result = run("snakemake", "-n", "--config", 'training={"iterations": 50}', cwd=folder)
    sentence = (
        "structseg: training.iterations: 50 has no effect: training.per_dataset.digits.iterations is 640"
    )
    assert result.stderr.count(sentence) == 1


@pytest.mark.long
def test_a_failure_runs_nothing_of_the_configuration(folder: Path) -> None:
    """The first job fails and the report is written, all in a folder with a name like commands."""
    names = ["yes", "1e3", "2023_01", "$(touch X)", "😀"]
    streets = {"streets": {"module": "folder", "root": "`touch X`", "class_names": names}}
    before = {path.name for path in folder.iterdir()}
    settings = {"results": FOLDER, "datasets": ["streets"], "dataset_options": streets}
    arguments = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    result = snakemake(folder, "--config", *arguments, check=False)
    assert result.returncode == 1 and "there is no folder `touch X`" in result.stdout + result.stderr
    assert {path.name for path in folder.iterdir()} - before - {".snakemake"} == {FOLDER}
    (file,) = (folder / FOLDER / "configs").iterdir()
    assert json.loads(file.read_text())["dataset_options"]["streets"]["class_names"] == names
    assert (folder / FOLDER / "report.log").exists()


@pytest.mark.long
def test_results_may_lie_in_a_folder_of_any_name(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    settings = ["--config", f"results={json.dumps(FOLDER)}", 'methods=["ce"]']
    snakemake(folder, *settings)
    assert (folder / FOLDER / "leaderboard.csv").exists() and (folder / FOLDER / "report.html").exists()
    assert "Nothing to be done" in snakemake(folder, *settings).stderr
    snakemake(folder, *settings, "--", "tables")
    assert {path.name for path in folder.iterdir()} - before - {".snakemake"} <= {FOLDER}
