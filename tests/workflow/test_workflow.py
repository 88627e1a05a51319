"""The workflow as a user runs it: in a fresh clone, from the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from common.config import entries, reading
from tests.conftest import clone, run
from tests.workflow.commands import CONFIG, MODEL, planned, planned_runs, snakemake


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
    methods, recipes = finished / "methods", finished / "common/runs/recipes.py"
    kept = {path: path.read_bytes() for path in (*methods.glob("*.py"), recipes)}
    yield finished
    for path in {*methods.glob("*.py"), *kept}:
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
    assert planned_runs(edited) == {
        ("train", "ce"), ("evaluate", "ce"), ("measure", "ce"), ("evaluate", "crf-1"), ("measure", "crf-1"),
    }  # fmt: skip


def test_editing_the_refinement_retrains_nothing(edited: Path) -> None:
    method = edited / "methods/densecrf.py"
    method.write_text(
        method.read_text().replace('"iterations": iterations,', '"iterations": iterations + 0,')
    )
    assert planned_runs(edited) == {("evaluate", "crf-1"), ("measure", "crf-1")}


@pytest.mark.parametrize(
    ("recipe", "jobs"),
    [
        ("training", {"train": 2, "evaluate": 3, "measure": 3}),
        ("scoring", {"controls": 1, "evaluate": 3, "measure": 3}),
        ("measuring", {"measure": 3}),
    ],
)
def test_another_recipe_makes_due_what_is_made_by_it(recipe: str, jobs: dict[str, int], edited: Path) -> None:
    file = edited / "common/runs/recipes.py"
    head = f'    "{recipe}",\n    (\n'
    text = file.read_text()
    assert head in text
    file.write_text(text.replace(head, f'{head}        "something new",\n'))
    assert planned(edited) == jobs | {"tabulate": 1, "publish": 1}


def test_other_machines_and_ways_of_running_rerun_nothing(finished: Path) -> None:
    """The commands of the rules are fixed texts: what differs reaches stages by other ways."""
    changes = ("resources={cpus: 2, mem_mb: 3000}", "execution={workers: 0, log_every: 3}")
    assert planned(finished, "--config", *changes) == {}


def test_the_completed_configuration_stands_alone(finished: Path, tmp_path: Path) -> None:
    """It needs neither config.yaml nor the files that it was made from."""
    other = clone(tmp_path)
    subprocess.run(["cp", "-a", str(finished / "results"), str(other)], check=True)
    (other / "config.yaml").write_text("datasets: [")
    files = sorted((other / "results/configs").iterdir(), key=lambda path: path.stat().st_mtime)
    contents = [json.loads(path.read_text()) for path in files]
    (file,) = [path for path, content in zip(files, contents) if content["methods"] == CONFIG["methods"]]
    command = ("snakemake", "-n", "--configfile", str(file.relative_to(other)))
    result = run(*command, cwd=other)
    assert "Nothing to be done" in result.stdout + result.stderr
    more = run(*command, "--config", "seeds=[0,1]", cwd=other).stdout
    assert re.search(r"^train +2$", more, flags=re.MULTILINE)
    result = run("snakemake", "-n", cwd=other, check=False)
    assert result.returncode == 2 and "structseg: config.yaml is no valid YAML" in result.stderr


def test_results_copied_to_a_fresh_clone_are_found(finished: Path, tmp_path: Path) -> None:
    other = clone(tmp_path)
    shutil.copy(finished / "tiny.yaml", other)
    subprocess.run(["cp", "-r", str(finished / "results"), str(other)], check=True)
    assert not {*planned(other)} - {"publish"}, "the page may be older than the tables: cp sets times anew"


@pytest.mark.long
def test_measuring_again_renews_the_tables(finished: Path) -> None:
    table = finished / "results/leaderboard.csv"
    before = table.stat().st_mtime_ns
    (cost,) = (finished / "results/runs").rglob("ce/*/cost-*.json")
    snakemake(finished, "--forcerun", "measure", "--", str(cost.relative_to(finished)))
    assert table.stat().st_mtime_ns > before
    assert planned(finished) == {}


def test_what_was_deleted_is_made_again(finished: Path) -> None:
    cost = next((finished / "results/runs").rglob("bce/*/cost-*.json"))
    kept = cost.read_bytes()
    cost.unlink()
    assert planned(finished) == {"measure": 1, "tabulate": 1, "publish": 1}
    cost.write_bytes(kept)
    assert planned(finished) == {}


PARTIAL = [
    ("runs/*/*/bce/*/per_image.npz", {"evaluate": 1}),
    ("runs/*/*/ce/*/panel.npz", {"evaluate": 1}),
    ("runs/*/*/crf-1/*/labels.zip", {"evaluate": 1}),
    ("datasets/digits-*.panel.npz", {"prepare": 1}),
    ("controls/*/*/*/ceiling/per_image.npz", {"controls": 1}),
]
"""Files that a partial copy lacks, and what makes them."""


def test_what_a_partial_copy_lacks_is_made_again(finished: Path) -> None:
    for pattern, jobs in PARTIAL:
        (file,) = (finished / "results").glob(pattern)
        kept = file.read_bytes()
        file.unlink()
        plan = planned(finished)
        file.write_bytes(kept)
        assert {rule: plan.get(rule) for rule in jobs} == jobs, pattern
        assert not {"train", "measure"} & {*plan}, pattern


@pytest.mark.long
def test_a_model_whose_folder_is_deleted_is_trained_again_with_what_was_made_with_it(finished: Path) -> None:
    (model,) = (finished / "results/models").glob("*/*/bce/*/model.pt")
    shutil.rmtree(model.parent)
    (cost,) = (finished / "results/runs").glob("*/*/bce/*/cost-*.json")
    scores = cost.with_name("metrics.json")
    before = cost.read_bytes(), scores.read_bytes()
    result = snakemake(finished)
    assert "structseg: 1 trained model is gone that results were made with" in result.stderr
    assert model.exists() and cost.read_bytes() != before[0] and scores.read_bytes() != before[1]
    table = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    assert table["error"].isna().all() and planned(finished) == {}


def test_forcing_a_training_says_that_nothing_is_trained(finished: Path) -> None:
    (model,) = (finished / "results/models").glob("*/*/bce/*/model.pt")
    result = snakemake(finished, "--forcerun", "train", "--", str(model.relative_to(finished)))
    assert "is brought back as it was trained before" in result.stderr
    assert (
        f"nothing was trained: to train it again, delete the folder {model.relative_to(finished).parent}"
        in (result.stderr)
    )


def test_tables_of_a_benchmark_survive_the_plain_command(finished: Path) -> None:
    board = finished / "results/leaderboard.csv"
    before = board.read_bytes()
    for target in ("tables", "report"):
        result = run("snakemake", target, cwd=finished, check=False)
        assert result.returncode != 0 and board.read_bytes() == before
        sentence = (
            r"structseg: no run of this configuration has a result, .*--configfile results/configs/\w+.json"
        )
        assert len(re.findall(sentence, result.stderr)) == 1 and "Traceback" not in result.stderr


def test_a_missing_manifest_is_made_and_invalidates_nothing(finished: Path, tmp_path: Path) -> None:
    """As after a merge of models and runs alone: times of another machine are not measured again either."""
    (manifest,) = (finished / "results/datasets").glob("digits-*.json")
    shutil.move(manifest, tmp_path)
    made = {"prepare": 1, "tabulate": 1, "publish": 1}
    assert planned(finished) == made
    assert planned(finished, "--config", "seeds=[0,1]") == made | {"train": 2, "evaluate": 3}
    everything = {"prepare": 1, "train": 2, "controls": 1, "evaluate": 3, "measure": 3}
    assert planned(finished, "--forceall") == made | everything
    shutil.move(tmp_path / manifest.name, manifest)
    assert planned(finished) == {}


def test_another_seed_adds_its_runs_and_no_others(finished: Path) -> None:
    assert planned(finished, "--config", "seeds=[0,1]") == {
        "train": 2,
        "evaluate": 3,
        "tabulate": 1,
        "publish": 1,
    }, "costs are those of the first seed"


def test_what_is_measured_changes_nothing_else(finished: Path) -> None:
    tables = {"tabulate": 1, "publish": 1}
    assert planned(finished, "--config", "execution={measure: none}") == tables
    more = ("seeds=[0,1]", "execution={measure: all}")
    assert planned(finished, "--config", *more) == tables | {"train": 2, "evaluate": 3, "measure": 3}


def test_fewer_methods_only_change_the_tables(finished: Path) -> None:
    assert planned(finished, "--config", 'methods=["ce","bce"]') == {"tabulate": 1, "publish": 1}


def test_the_readme_s_example_becomes_a_row_without_another_edit(edited: Path) -> None:
    """The file of the README, dropped into methods/, is trained and tabulated beside what is there."""
    readme = (edited / "methods/README.md").read_text()
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


def test_a_user_s_pythonpath_is_kept(edited: Path, tmp_path: Path) -> None:
    """A method may import what its user has on PYTHONPATH; the repository goes before it."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/weighting.py").write_text("WEIGHT = 2.0\n")
    (tmp_path / "theirs/common.py").write_text("raise ImportError('not this one')\n")
    (edited / "methods/weighted.py").write_text(
        '"""Cross-entropy with a weight."""\nfrom weighting import WEIGHT\n\n'
        "from methods.base import Method, cross_entropy\n\n\n"
        'class Weighted(Method):\n    """Weighted."""\n\n    def loss(self, logits, labels):\n'
        "        return WEIGHT * cross_entropy(logits, labels)\n"
    )
    arguments = (
        "snakemake",
        "--cores",
        "2",
        "--configfile",
        "tiny.yaml",
        "--config",
        'methods=["weighted"]',
        "--until",
        "train",
    )
    run(*arguments, cwd=edited, check=False, PYTHONPATH=str(tmp_path / "theirs"))  # there are no tables yet
    assert len(list((edited / "results/models").glob("*/*/weighted/*/model.pt"))) == 1


@pytest.mark.long
def test_predictions_of_another_system_are_a_row_without_a_cost(finished: Path, tmp_path: Path) -> None:
    dataset = entries.dataset(reading.complete(yaml.safe_load(yaml.safe_dump(CONFIG))), "digits")
    for name in dataset.names("test"):
        Image.fromarray(dataset.read("test", name)[1]).save(tmp_path / f"{name}.png")
    entry = {"method_options": {"theirs": {"predictions": str(tmp_path)}}}
    (finished / "theirs.yaml").write_text(yaml.safe_dump(CONFIG | entry | {"methods": ["ce", "theirs"]}))
    run("snakemake", "--cores", "1", "--configfile", "theirs.yaml", cwd=finished)
    table = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    assert table.loc["theirs", "miou_mean"] == 100 and table["error"].isna().all()
    assert pd.isna(table.loc["theirs", "network_ms"]) and table.loc["ce", "network_ms"] > 0
    assert not list((finished / "results/models").rglob("theirs"))


@pytest.mark.long
def test_damaged_files_are_made_again_by_the_same_command(finished: Path) -> None:
    """The stage that finds one renames it, says so, and fails: so the next call sees that it is missing."""
    (model,) = (finished / f"results/models/digits/{MODEL}/ce").glob("seed0-*/model.pt")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    with model.open("r+b") as file:  # in its place, as a disk does: its second name is damaged, too
        file.write(content)
    (metrics,) = (finished / f"results/runs/digits/{MODEL}/crf-1").glob("seed0-*/metrics.json")
    metrics.unlink()
    (counts,) = (finished / f"results/runs/digits/{MODEL}/bce").glob("seed0-*/per_image.npz")
    for damage, words in (
        (lambda: None, "model.pt cannot be read (Bad CRC-32"),
        (lambda: counts.write_text("5"), "files of 1 results are damaged or out of reach"),
    ):
        damage()
        failed = snakemake(finished, check=False)
        said = failed.stdout + failed.stderr
        assert failed.returncode == 1 and words in said and "Traceback" not in said
        assert "latency" not in said, "nothing is waited for"
        again = snakemake(finished)
        assert "latency" not in again.stdout + again.stderr
    assert pd.read_csv(finished / "results/leaderboard.csv")["error"].isna().all()
    verified = run("common", "status", "--verify", "--configfile", "tiny.yaml", cwd=finished)
    assert "All files were read: they are as they were written." in verified.stdout
