"""What the workflow does with results of none: plans, refusals, failing runs, searches."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import clone, run
from tests.workflow.commands import CONFIG, MODEL, planned, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has run before these tests."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture
def edited(project: Path) -> Path:
    """The same clone for tests that add methods, which are taken away again."""
    kept = {*(project / "methods").glob("*.py")}
    yield project
    for path in {*(project / "methods").glob("*.py")} - kept:
        path.unlink()


def test_every_combination_is_a_run(project: Path) -> None:
    models = f'models=["{MODEL}","deeplabv3-test_resnet"]'
    jobs = planned(project, "--config", models, 'methods=["ce","rmi","crf-1"]', "seeds=[0,1,2]")
    once = {"prepare": 1, "tabulate": 1, "publish": 1}
    assert jobs == once | {"train": 12, "evaluate": 18, "measure": 6, "controls": 2}


def test_later_configuration_files_win(project: Path) -> None:
    (project / "second.yaml").write_text(
        "methods: [bce]\ntraining: {per_dataset: {digits: {batch_size: 3}}}\n"
    )
    plan = run("snakemake", "-n", "--configfile", "tiny.yaml", "second.yaml", cwd=project).stdout
    trained = re.findall(r"^rule train:.*?method=(\w+)", plan, flags=re.MULTILINE | re.DOTALL)
    assert set(trained) == {"bce"}


def test_failing_runs_are_rows_and_the_others_finish(edited: Path) -> None:
    """With --keep-going; a method that refuses, and one whose loss is not finite."""
    for name, body in (
        ("broken", "raise RuntimeError('broken on purpose')"),
        ("diverging", "return logits.sum() * float('nan')"),
    ):
        head = "from methods.base import Method\n\n\nclass Failing(Method):\n"
        code = f"{head}    def loss(self, logits, labels):\n        {body}\n"
        (edited / f"methods/{name}.py").write_text(code)
    chosen = ('methods=["broken","diverging","ce"]', "seeds=[0,3]", "execution={measure: none}")
    result = snakemake(edited, "--keep-going", "--config", *chosen, check=False)
    assert result.returncode != 0
    reason = r"methods/diverging\.py: .*loss.* returns NaN at its first call"
    assert re.search(reason, result.stderr), "the reason is shown, not only a log file"
    table = pd.read_csv(edited / "results/leaderboard.csv").set_index("method")
    reasons = table["error"]
    assert re.fullmatch(
        r"seed 0, 3: train failed: methods/broken\.py:6: loss.* fails with RuntimeError: broken on purpose",
        reasons["broken"],
    ), reasons["broken"]
    assert re.search(reason, reasons["diverging"]), reasons["diverging"]
    assert table.loc["ce", "seeds"] == 2 and pd.isna(table.loc["ce", "error"])
    (edited / "results/leaderboard.csv").unlink()
    again = run("snakemake", "tables", "--configfile", "tiny.yaml", "--config", *chosen, cwd=edited)
    assert "broken on purpose" in again.stdout
    assert (edited / "results/leaderboard.csv").exists()
    assert planned(edited, "--config", *chosen)["train"] == 4, "failures are tried again"


def test_bad_input_ends_with_status_2_and_one_sentence(project: Path) -> None:
    result = snakemake(project, "-n", "--config", 'methods=["cee"]', check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("structseg: methods: unknown method 'cee'")
    assert "Traceback" not in result.stderr
    stage = ("--dataset", "digits", "--model", MODEL, "--seed", "0")
    for arguments in (("--method", "rmi"), ("--method", "ce", "--digest", "0" * 10)):
        result = run(
            "common", "evaluate", "--configfile", "tiny.yaml", *stage, *arguments, cwd=project, check=False
        )
        assert result.returncode == 2
        assert result.stderr.startswith("structseg: ") and len(result.stderr.splitlines()) == 1


def test_a_method_that_cannot_be_loaded_is_one_sentence(edited: Path) -> None:
    (edited / "methods/bad.py").write_text("import nowhere\n")
    result = snakemake(edited, "-n", "--config", 'methods=["bad"]', check=False)
    assert result.returncode == 2
    expected = "structseg: methods/bad.py cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"
    assert expected in result.stderr and "Traceback" not in result.stderr
    snakemake(edited, "-n")  # it only matters to those who select it


def test_the_rules_ask_for_what_a_cluster_needs(project: Path) -> None:
    text = snakemake(project, "-n", "--config", "seeds=[5]", 'execution={"gpus_per_run": 2}').stdout
    for rule, gpus in (("train", 2), ("evaluate", 1), ("measure", 1)):
        resources = re.search(rf"rule {rule}:.*?resources: ([^\n]*)", text, flags=re.DOTALL).group(1)
        asked = set(resources.replace(",", "").split())
        assert {f"gpu={gpus}", f"mem_mb={4000 * gpus}"} <= asked, resources
        assert "runtime=" in resources


def test_jobs_that_share_a_gpu_count_as_parts_of_it(project: Path) -> None:
    """Of two GPUs with three shares each a training takes one of six, and a measurement three."""
    shares = 'execution={"runs_per_gpu": 3}'
    text = snakemake(project, "-np", "--resources", "gpu=2", "--config", "seeds=[5]", shares).stdout
    for rule, gpus in (("train", 1), ("evaluate", 1), ("measure", 3)):
        (resources,) = re.findall(rf"rule {rule}:.*?resources: ([^\n]*).*? --gpus 1\n", text, re.DOTALL)[:1]
        assert f"gpu={gpus}" in resources.replace(",", "").split(), resources


def test_rulegraph_and_lint(project: Path) -> None:
    graph = snakemake(project, "--rulegraph").stdout
    for rule in ("prepare", "train", "evaluate", "measure", "controls", "tabulate"):
        assert f'label = "{rule}"' in graph
    lint = snakemake(project, "--lint", check=False)
    wishes = set(re.findall(r"^ +\* (.*)", lint.stdout + lint.stderr, flags=re.MULTILINE))
    assert wishes == {"Specify a conda environment or container for each rule.:"}


def test_settings_are_tuned_on_a_model_that_is_no_run(project: Path) -> None:
    none = dict.fromkeys(["ce", "rmi", "ddcrf", "crf-5"])  # what config.yaml has to try
    methods = none | {"crf-1": {"iterations": [1], "bilateral": [[3, 10], [20], [3]]}}
    tuning = {"tuning": {"methods": methods, "images": 1, "candidates": 3, "rungs": [0.5, 1]}}
    (project / "tuned.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": ["rmi", "crf-1"]} | tuning))
    arguments = ("snakemake", "--cores", "2", "--configfile", "tuned.yaml")
    result = run(*arguments, "--", "tune", cwd=project)
    assert "best of 3 candidates, all there are" in result.stdout + result.stderr
    tuning["tuning"]["methods"] |= {"rmi": {"weight": [0.4, 0.6]}}
    (project / "tuned.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": ["rmi", "crf-1"]} | tuning))
    plan = run(*arguments, "-n", "--", "tune", cwd=project).stdout
    assert [int(count) for count in re.findall(r"^trial +(\d+)$", plan, re.MULTILINE)[:1]] == [3 + 2]
    assert re.search(r"^search +1$", plan, re.MULTILINE), "that of crf-1 is there"
    tuning["tuning"]["split"] = "test"
    (project / "tuned.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": ["rmi", "crf-1"]} | tuning))
    result = run(*arguments, "--", "tune", cwd=project, check=False)
    assert result.returncode == 2 and "test is what the tables score" in result.stderr


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_and_what_it_has_chosen_is_used(tmp_path: Path) -> None:
    folder = clone(tmp_path / "project")
    none = dict.fromkeys(["ce", "rmi", "ddcrf", "crf-5"])
    methods = none | {"rmi": {"weight": [0.2, 0.4, 0.6, 0.8]}, "crf-1": {"gaussian": [[1, 3], [1, 3]]}}
    tuning = {"methods": methods, "candidates": 4, "rungs": [0.5, 1], "hold_out": 0.3, "images": 2}
    config = CONFIG | {"methods": ["ce", "rmi", "crf-1"], "seeds": [0], "tuning": tuning}
    config |= {"execution": CONFIG["execution"] | {"measure": "none"}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "tiny.yaml", "--", "tune"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(list(folder.glob("results/tuning/*/*/rmi-*/trials/*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/tuning/*/*/rmi-*/trials/*.json")}
    run("snakemake", "--cores", "2", "--configfile", "tiny.yaml", "--unlock", cwd=folder)
    run(*command[2:], cwd=folder)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "nothing is tried twice"
    chosen = sorted(folder.glob("results/tuning/*/*/*/chosen.yaml"))
    assert [path.parent.name.rpartition("-")[0] for path in chosen] == ["crf-1", "rmi"]
    run("snakemake", "--cores", "2", "--configfile", "tiny.yaml", *map(str, chosen), cwd=folder)
    board = pd.read_csv(folder / "results/leaderboard.csv")
    assert board.set_index("method")["tuned"].notna()[["rmi", "crf-1"]].all()
    assert "What tuning gained" in (folder / "results/report.html").read_text()


@pytest.mark.long
def test_joined_splits_are_scored_and_shown(project: Path) -> None:
    snakemake(project, "--config", "evaluation={split: val+test}", 'methods=["ce"]')
    assert "scored on val+test" in (project / "results/leaderboard.md").read_text()


@pytest.mark.long
def test_what_is_edited_while_a_benchmark_runs_does_not_change_it(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": ["ce"], "seeds": [0, 1]}))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "tiny.yaml"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not list(folder.glob("results/models/*/*/*/*/training.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        (folder / "config.yaml").write_text("datasets: [")
        (folder / "tiny.yaml").unlink()
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    table = pd.read_csv(folder / "results/leaderboard.csv").set_index("method")
    assert table.loc["ce", "seeds"] == 2 and table.loc["ce", "error"] != table.loc["ce", "error"]


def test_two_snakemakes_in_one_folder(tmp_path: Path) -> None:
    """The message is the one that the README explains, and what it advises after a kill forgets nothing."""
    folder = clone(tmp_path)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "tiny.yaml"]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        start = time.monotonic()
        while not any((folder / ".snakemake" / "locks").glob("*")):
            assert first.poll() is None and time.monotonic() - start < 120, (tmp_path / "log").read_text()
            time.sleep(0.1)
        second = snakemake(folder, check=False)
        while not (trained := list(folder.glob("results/models/*/*/*/*/state/lock"))):
            assert first.poll() is None and time.monotonic() - start < 240, (tmp_path / "log").read_text()
            time.sleep(0.1)
        first.kill()  # the training lives on
        first.wait()
        model = max(trained, key=lambda path: path.stat().st_mtime).parent.parent / "model.pt"
        while not model.exists():
            assert time.monotonic() - start < 360
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode and "Error: Directory cannot be locked" in second.stdout + second.stderr
    snakemake(folder, "--unlock")
    wanted = {
        "train": ("models/*/*/*/*/model.pt", 2),
        "evaluate": ("runs/*/*/*/*/metrics.json", 3),
        "measure": ("runs/*/*/*/*/cost-*.json", 3),
    }
    left = {rule: n - len([*(folder / "results").glob(files)]) for rule, (files, n) in wanted.items()}
    assert left["evaluate"] > 0 and left["measure"] > 0
    for arguments in ([], ["--rerun-incomplete"]):
        jobs = planned(folder, *arguments)
        assert {rule: jobs.get(rule, 0) for rule in left} == left
        assert jobs["tabulate"] == jobs["publish"] == 1
