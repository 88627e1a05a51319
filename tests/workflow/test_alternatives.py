"""What else the cost of a method would buy, and trainings that start from others, from the command line."""

from __future__ import annotations

import shutil
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

pytestmark = pytest.mark.long

KINDS = {
    "ce": "method",
    "ddcrf-after": "method",
    "ce-tta": "alternative",
    "ce-long": "alternative",
    "ce-stride16": "alternative",
    "ce-ensemble": "alternative",
}
SHORT = {
    "ce-stride16": {"module": "ce", "model": {"output_stride": 16}},  # the model's own is 8
    "ce-ensemble": {"ensemble": {"members": 3}},
    "ce-long": {"per_dataset": {"digits": {"training": {"iterations": 8}}}},
    "ddcrf-after": {"iterations": 2, "per_dataset": {"digits": {"training": {"iterations": 6}}}},
}
SETTINGS = CONFIG | {
    "methods": [*KINDS],
    "seeds": [0, 1],
    "method_options": SHORT,
    "execution": CONFIG["execution"] | {"measure": "first_seed"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which one row of each kind has run, on two seeds; the entries are those of config.yaml,
    but for the model, which has the output stride of `ce-stride8` itself."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    jobs = planned(folder)
    assert (jobs["train"], jobs["evaluate"], jobs["measure"]) == (2 * (3 + 3), 12, 6), (
        "ce with two further members, long, at stride 16, and the fitted one: nothing is trained twice"
    )
    snakemake(folder)
    return folder


def test_each_is_a_row_with_its_kind_and_cost(finished: Path) -> None:
    table = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    assert table["error"].isna().all()
    table = table[~table["control"]]
    assert table["kind"].to_dict() == KINDS and (table["seeds"] == 2).all()
    minutes = table["training_minutes"]
    assert minutes["ce-tta"] == minutes["ce"] and minutes["ce-ensemble"] == pytest.approx(3 * minutes["ce"])
    assert minutes["ce-long"] == pytest.approx(2 * table["training_step_ms"]["ce-long"] * 4 / 60_000)
    assert minutes["ddcrf-after"] > minutes["ce"], "what it starts from is a part of it"
    assert table["latency_ms"]["ce-ensemble"] > 1.5 * table["latency_ms"]["ce"]
    for name in KINDS:
        assert name in (finished / "results/leaderboard.md").read_text()
        assert name in (finished / "results/report.html").read_text()


def test_it_is_complete_and_sound(finished: Path) -> None:
    assert planned(finished) == {}
    verified = run("common", "status", "--verify", "--configfile", "tiny.yaml", cwd=finished).stdout
    assert "12 done" in verified and "All files were read: they are as they were written." in verified
    assert verified.count("averages 3 models of ce") == 2
    assert verified.count("starts from the model of ce") == 2


def test_a_lost_member_is_trained_again_and_what_it_made_is_scored_again(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy"
    models = [*(folder / f"results/models/digits/{MODEL}/ce").glob("seed0-*")]
    ensemble = run_folder(folder, "ce-ensemble")
    own = yaml.safe_load((run_folder(folder, "ce") / "metrics.json").read_text())["trained"]["digest"]
    (lost,) = [model for model in models if own not in model.name][:1]
    shutil.rmtree(lost)
    assert planned(folder) == {"train": 1, "evaluate": 1, "measure": 1, "tabulate": 1, "publish": 1}
    assert (ensemble / "metrics.json").exists()


def run_folder(folder: Path, method: str) -> Path:
    (found,) = (folder / f"results/runs/digits/{MODEL}/{method}").glob("seed0-*")
    return found


def test_a_killed_workflow_goes_on_to_the_same_end(finished: Path) -> None:
    """Killed while something trains that starts from another model; the same numbers come out."""
    before = pd.read_csv(finished / "results/leaderboard.csv").set_index("method")
    settings = SETTINGS | {
        "results": "again",
        "methods": ["ce", "ddcrf-after"],
        "execution": SETTINGS["execution"] | {"measure": "none", "checkpoint_every": 1},
    }
    (finished / "again.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "again.yaml"]
    process = subprocess.Popen(command, cwd=finished, start_new_session=True, stderr=subprocess.DEVNULL)
    place = finished / f"again/models/digits/{MODEL}/ddcrf-after"
    deadline = time.monotonic() + 300
    while not [*place.glob("*/state/checkpoint.pt")] and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    run("snakemake", "--cores", "1", "--configfile", "again.yaml", "--unlock", cwd=finished)
    run("snakemake", "--cores", "1", "--configfile", "again.yaml", cwd=finished)
    after = pd.read_csv(finished / "again/leaderboard.csv").set_index("method")
    for name in ("ce", "ddcrf-after"):
        assert after.loc[name, "miou_mean"] == before.loc[name, "miou_mean"]
