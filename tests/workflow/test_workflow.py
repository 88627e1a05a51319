"""The workflow as a user runs it: in a fresh clone, from the command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from common import config as configuration
from tests.conftest import TINY, clone, run

MODEL = "deeplabv3plus-test_resnet"
CONFIG = TINY | {
    "methods": ["ce", "bce", "crf-1"],
    "training": {"per_dataset": {"digits": TINY["training"] | {"warmup": 0}}},  # over those of config.yaml
}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("snakemake", "--cores", "2", "--configfile", "tiny.yaml", *arguments, cwd=folder, check=check)


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """How many jobs of each rule a dry run plans."""
    text = snakemake(folder, "-n", *arguments).stdout
    counts = re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}


def planned_runs(folder: Path, *arguments: str) -> set[tuple[str, str]]:
    """(rule, method) of the jobs that a dry run plans."""
    text = snakemake(folder, "-n", *arguments).stdout
    return set(re.findall(r"rule (\w+):.*?wildcards: .*?method=([^,\s]+)", text, flags=re.DOTALL))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the tiny benchmark has run. Tests leave its code as they found it."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    snakemake(folder)
    return folder


@pytest.fixture
def edited(finished: Path) -> Path:
    """The same clone for tests that edit its code; what they change is put back."""
    kept = {path: path.read_bytes() for path in (finished / "methods").glob("*.py")}
    yield finished
    for path in (finished / "methods").glob("*.py"):
        if path in kept:
            path.write_bytes(kept[path])
        else:
            path.unlink()


def test_every_run_is_a_row_of_the_leaderboard(finished: Path) -> None:
    table = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    assert set(table.index[table["control"]]) == {"majority", "ceiling"}
    assert table["error"].isna().all()
    assert table["miou_mean"].between(0, 100).all() and table["boundary_iou_mean"].between(0, 100).all()
    table = table[~table["control"]]
    assert set(table.index) == {"ce", "bce", "crf-1"}
    assert table[["ece_mean", "nll_mean", "throughput", "multiply_adds"]].notna().all(axis=None)
    for column in ("network_ms", "training_step_ms", "parameters"):
        assert (table[column] > 0).all()
    assert table.loc["crf-1", "refine_ms"] > 10 * table.loc["ce", "refine_ms"]
    assert "| method" in (finished / "results/leaderboard.md").read_text()
    assert r"\begin{tabular}" in (finished / "results/leaderboard.tex").read_text()


def test_the_panel_is_a_picture(finished: Path) -> None:
    with Image.open(finished / f"results/figures/digits-{MODEL}.png") as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(10**6)) > 50


def test_nothing_is_trained_for_a_method_that_reuses_a_model(finished: Path) -> None:
    trained = {path.parent.parent.name for path in (finished / "results/models").rglob("model.pt")}
    assert trained == {"ce", "bce"}


def test_a_second_run_does_nothing(finished: Path) -> None:
    assert planned(finished) == {}
    assert "Nothing to be done" in snakemake(finished).stderr


def test_touching_files_and_editing_comments_rerun_nothing(edited: Path) -> None:
    for path in [*edited.rglob("*.py"), *edited.rglob("*.smk"), edited / "Snakefile"]:
        os.utime(path)
    for path in (edited / "results").rglob("*"):
        os.utime(path)
    method = edited / "methods/ce.py"
    method.write_text(method.read_text().replace('"""Softmax', '# a comment\n    """A softmax'))
    assert planned(edited) == {}


def test_editing_a_method_reruns_its_runs_and_those_trained_as_it(edited: Path) -> None:
    method = edited / "methods/ce.py"
    method.write_text(method.read_text() + "\n    smoothing = 0.0\n")
    found = planned_runs(edited)
    assert found == {
        ("train", "ce"), ("evaluate", "ce"), ("measure", "ce"), ("evaluate", "crf-1"), ("measure", "crf-1"),
    }  # fmt: skip


def test_editing_the_refinement_retrains_nothing(edited: Path) -> None:
    method = edited / "methods/densecrf.py"
    method.write_text(
        method.read_text().replace('"iterations": iterations,', '"iterations": iterations + 0,')
    )
    assert planned_runs(edited) == {("evaluate", "crf-1"), ("measure", "crf-1")}


def test_results_copied_to_a_fresh_clone_are_found(finished: Path, tmp_path: Path) -> None:
    other = clone(tmp_path)
    shutil.copy(finished / "tiny.yaml", other)
    subprocess.run(["cp", "-r", str(finished / "results"), str(other)], check=True)
    assert planned(other) == {}


def test_measuring_again_renews_the_tables(finished: Path) -> None:
    table = finished / "results/leaderboard.csv"
    before = table.stat().st_mtime_ns
    (cost,) = (finished / "results/runs").rglob("ce/*/cost.json")
    snakemake(finished, "--forcerun", "measure", "--", str(cost.relative_to(finished)))
    assert table.stat().st_mtime_ns > before
    assert planned(finished) == {}


def test_what_was_deleted_is_made_again(finished: Path) -> None:
    cost = next((finished / "results/runs").rglob("bce/*/cost.json"))
    kept = cost.read_bytes()
    cost.unlink()
    assert planned(finished) == {"measure": 1, "tabulate": 1, "publish": 1}
    cost.write_bytes(kept)
    assert planned(finished) == {}


def test_joined_splits_are_scored_and_shown(finished: Path) -> None:
    snakemake(finished, "--config", "evaluation={split: val+test}", 'methods=["ce"]')
    assert "scored on val+test" in (finished / "results/leaderboard.md").read_text()
    snakemake(finished)


def test_another_seed_adds_its_runs_and_no_others(finished: Path) -> None:
    assert planned(finished, "--config", "seeds=[0,1]") == {
        "train": 2,
        "evaluate": 3,
        "measure": 3,
        "tabulate": 1,
        "publish": 1,
    }


def test_fewer_methods_only_change_the_tables(finished: Path) -> None:
    assert planned(finished, "--config", 'methods=["ce","bce"]') == {"tabulate": 1, "publish": 1}


def test_every_combination_is_a_run(finished: Path) -> None:
    models = f'models=["{MODEL}","deeplabv3-test_resnet"]'
    found = planned(finished, "--config", models, 'methods=["ce","rmi","crf-1"]', "seeds=[0,1,2]")
    assert found == {"train": 11, "evaluate": 16, "measure": 16, "controls": 1, "tabulate": 1, "publish": 1}


def test_later_configuration_files_win(finished: Path) -> None:
    (finished / "second.yaml").write_text(
        "methods: [bce]\ntraining: {per_dataset: {digits: {batch_size: 3}}}\n"
    )
    found = run(
        "snakemake", "-n", "--configfile", "tiny.yaml", "second.yaml", cwd=finished
    ).stdout  # fmt: skip
    trained = re.findall(r"^rule train:.*?method=(\w+)", found, flags=re.MULTILINE | re.DOTALL)
    assert set(trained) == {"bce"}


def test_the_readme_s_example_becomes_a_row_without_another_edit(edited: Path) -> None:
    """The file of the README, dropped into methods/, is trained and tabulated beside what is there."""
    readme = (edited / "README.md").read_text()
    name, code = re.search(r"`methods/(\w+)\.py`.*?```python\n(.*?)```", readme, flags=re.DOTALL).groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (edited / f"methods/{name}.py").write_text(code)
    methods = f'methods=["ce","bce","crf-1","{name}"]'
    assert planned(edited, "--config", methods) == {
        "train": 1,
        "evaluate": 1,
        "measure": 1,
        "tabulate": 1,
        "publish": 1,
    }
    snakemake(edited, "--config", methods)
    table = pd.read_csv(edited / "results/leaderboard.csv").set_index("method")
    assert table.loc[name, "seeds"] == 1 and len(table) == 4 + 2, "with the controls"
    run("pytest", "-q", "-p", "no:cacheprovider", "tests/test_methods.py", "-k", name, cwd=edited)


def test_failing_runs_are_rows_and_the_others_finish(edited: Path) -> None:
    """With --keep-going; a method that refuses, and one whose loss is not finite."""
    for name, body in (
        ("broken", "raise RuntimeError('broken on purpose')"),
        ("diverging", "return logits.sum() * float('nan')"),
    ):
        head = "from methods.base import Method\n\n\nclass Failing(Method):\n"
        code = f"{head}    def loss(self, logits, labels):\n        {body}\n"
        (edited / f"methods/{name}.py").write_text(code)
    methods = 'methods=["broken","diverging","ce","crf-1"]'
    result = snakemake(edited, "--keep-going", "--config", methods, "seeds=[0,3]", check=False)
    assert result.returncode != 0
    assert "the loss is nan at iteration 1" in result.stderr, "the reason is shown, not only a log file"
    table = pd.read_csv(edited / "results/leaderboard.csv").set_index("method")
    assert table.loc["broken", "error"] == "seed 0, 3: train failed: RuntimeError: broken on purpose"
    assert "the loss is nan at iteration 1" in table.loc["diverging", "error"]
    assert table.loc[["ce", "crf-1"], "seeds"].tolist() == [2, 2]
    assert table.loc[["ce", "crf-1"], "error"].isna().all()
    (edited / "results/leaderboard.csv").unlink()
    again = run(
        "snakemake", "tables", "--configfile", "tiny.yaml", "--config", methods, "seeds=[0,3]", cwd=edited
    )
    assert "broken on purpose" in again.stdout
    assert (edited / "results/leaderboard.csv").exists()
    assert planned(edited, "--config", methods, "seeds=[0,3]")["train"] == 4, "failures are tried again"


def test_bad_input_ends_with_status_2_and_one_sentence(finished: Path) -> None:
    result = snakemake(finished, "-n", "--config", 'methods=["cee"]', check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("structseg: methods: unknown method 'cee'")
    assert "Traceback" not in result.stderr
    stage = ("--dataset", "digits", "--model", MODEL, "--seed", "0")
    for arguments in (("--method", "rmi"), ("--method", "ce", "--digest", "0" * 10)):
        result = run("common.evaluate", "--configfile", "config.yaml", "tiny.yaml", *stage, *arguments,
                     cwd=finished, check=False)  # fmt: skip
        assert result.returncode == 2
        assert result.stderr.startswith("structseg: ") and len(result.stderr.splitlines()) == 1


def test_a_method_that_cannot_be_loaded_is_one_sentence(edited: Path) -> None:
    (edited / "methods/bad.py").write_text("import nowhere\n")
    result = snakemake(edited, "-n", "--config", 'methods=["bad"]', check=False)
    assert result.returncode == 2
    expected = "structseg: methods/bad.py cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"
    assert expected in result.stderr and "Traceback" not in result.stderr
    snakemake(edited, "-n")  # it only matters to those who select it


def test_the_rules_ask_for_what_a_cluster_needs(finished: Path) -> None:
    text = snakemake(finished, "-n", "--config", "seeds=[5]", 'execution={"gpus_per_run": 2}').stdout
    for rule, gpus in (("train", 2), ("evaluate", 1), ("measure", 1)):
        resources = re.search(rf"rule {rule}:.*?resources: ([^\n]*)", text, flags=re.DOTALL).group(1)
        asked = set(resources.replace(",", "").split())
        assert {f"gpu={gpus}", f"mem_mb={4000 * gpus}"} <= asked, resources
        assert "runtime=" in resources


def test_rulegraph_and_lint(finished: Path) -> None:
    graph = snakemake(finished, "--rulegraph").stdout
    for rule in ("prepare", "train", "evaluate", "measure", "controls", "tabulate"):
        assert f'label = "{rule}"' in graph
    lint = snakemake(finished, "--lint", check=False)
    wishes = set(re.findall(r"^ +\* (.*)", lint.stdout + lint.stderr, flags=re.MULTILINE))
    assert wishes == {"Specify a conda environment or container for each rule.:"}


def test_options_are_tuned_on_a_model_that_is_no_run(finished: Path) -> None:
    grid = {"iterations": [1], "bilateral": [[3, 10], [20], [3]]}
    tuning = {"tuning": {"method": "crf-1", "images": 1, "grid": grid}}
    (finished / "tuned.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": ["bce"]} | tuning))
    arguments = ("snakemake", "--cores", "2", "--configfile", "tuned.yaml")
    result = run(*arguments, "--", "tune_crf", cwd=finished)
    # Mappings are merged: the grid of config.yaml has four pairs for the other kernel.
    assert "best of 8 candidates" in result.stdout + result.stderr
    (finished / "tuned.yaml").write_text(
        yaml.safe_dump(CONFIG | {"methods": ["bce"], "tuning": {**tuning["tuning"], "split": "test"}})
    )
    result = run(*arguments, "--", "tune_crf", cwd=finished, check=False)
    assert result.returncode == 2 and "test is what the tables score" in result.stderr


def test_predictions_of_another_system_are_a_row_without_a_cost(finished: Path, tmp_path: Path) -> None:
    dataset = configuration.dataset(configuration.complete(yaml.safe_load(yaml.safe_dump(CONFIG))), "digits")
    for name in dataset.names("test"):
        Image.fromarray(dataset.read("test", name)[1]).save(tmp_path / f"{name}.png")
    entry = {"method_options": {"theirs": {"predictions": str(tmp_path)}}}
    (finished / "theirs.yaml").write_text(yaml.safe_dump(CONFIG | entry | {"methods": ["ce", "theirs"]}))
    run("snakemake", "--cores", "1", "--configfile", "theirs.yaml", cwd=finished)
    table = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    assert table.loc["theirs", "miou_mean"] == 100 and table["error"].isna().all()
    assert pd.isna(table.loc["theirs", "network_ms"]) and table.loc["ce", "network_ms"] > 0
    assert not list((finished / "results/models").rglob("theirs"))
