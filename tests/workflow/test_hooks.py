"""Methods of a user that use what hooks offer, each as a row of the leaderboard."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from common.files import read_json
from tests.conftest import clone, run
from tests.workflow.commands import CONFIG, planned, snakemake

pytestmark = pytest.mark.long

HEAD = '''import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from common.labels import VOID
from methods.base import Method, Setting, cross_entropy


class Own(Method):
    """Says what it is."""

'''
METHODS = {
    "contrast": '''"""Cross-entropy, and smooth scores where the image is: a loss that sees it."""
BODY    def loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        edges = (images[..., 1:] - images[..., :-1]).abs().mean(dim=1)
        steps = (logits[..., 1:] - logits[..., :-1]).square().mean(dim=1)
        return cross_entropy(logits, labels) + (steps * torch.exp(-edges / 30)).mean()
''',
    "twofold": '''"""Scores on a grid twice as fine, corrected by the image there."""
BODY    grid = 2

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        super().__init__(num_classes, feature_channels)
        self.correction = torch.nn.Conv2d(3, num_classes, 3, padding=1)

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        size = [2 * side for side in unary.shape[2:]]
        colours = functional.interpolate(images.float(), size, mode="area") / 255
        return functional.interpolate(unary, size, mode="bilinear") + self.correction(colours)
''',
    "edges": '''"""Cross-entropy, and as much of it again at edges, which are prepared before."""
BODY    def prepare(self, labels: Tensor) -> Tensor:
        return torch.from_numpy(ndimage.morphological_gradient(labels.numpy(), size=3) > 0)

    def loss(self, logits: Tensor, labels: Tensor, prepared: Tensor) -> Tensor:
        return cross_entropy(logits, labels) + cross_entropy(logits, labels.where(prepared, VOID))
''',
    "rarest": '''"""Labels that a rule decides: probabilities count by their class's share of the image."""
BODY    trained_as = "ce"

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return (probabilities / probabilities.mean(dim=(2, 3), keepdim=True)).argmax(dim=1)
''',
    "binary": '''"""Cross-entropy for few classes alone."""
BODY    @classmethod
    def skip(cls, setting: Setting) -> str | None:
        return None if setting.num_classes <= 2 else f"it is for two classes, not {setting.num_classes}"
''',
}
NAMES = ["ce", "contrast", "twofold", "edges", "rarest", "binary", "rarer", "bce"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the methods have run."""
    folder = cloned(tmp_path_factory.mktemp("clone"))
    snakemake(folder)
    return folder


def cloned(folder: Path) -> Path:
    """A clone with the methods, of which the last two are told by the configuration where not to run."""
    clone(folder)
    for name, text in METHODS.items():
        (folder / "methods" / f"{name}.py").write_text(text.replace("BODY", HEAD))
    entries = {
        "rarer": {"module": "rarest", "trained_as": "binary"},
        "bce": {"skip": {"digits": "it says nothing new there"}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG | {"methods": NAMES, "method_options": entries}))
    return folder


@pytest.fixture(scope="module")
def table(finished: Path) -> pd.DataFrame:
    return pd.read_csv(finished / "results/leaderboard.csv").set_index("method")


def test_each_is_a_row(table: pd.DataFrame) -> None:
    rows = table[~table["control"]]
    assert {*rows.index} == {*NAMES}
    run = rows.loc[["ce", "contrast", "twofold", "edges", "rarest"]]
    assert run["miou_mean"].between(0, 100).all() and run["error"].isna().all() and (run["seeds"] == 1).all()
    assert run.drop("rarest")["nll_mean"].nunique() == 4, "each is a model of its own"
    assert (run.drop("rarest")["training_step_ms"] > 0).all() and (run["latency_ms"] > 0).all()


def test_what_is_skipped_is_a_row_with_its_reason(finished: Path, table: pd.DataFrame) -> None:
    assert table.loc[["binary", "rarer", "bce"], "error"].tolist() == [
        "skipped: it is for two classes, not 11",
        "skipped: it needs the model of binary: it is for two classes, not 11",
        "skipped: it says nothing new there",
    ]
    assert table.loc[["binary", "rarer", "bce"], "miou_mean"].isna().all()
    for place in ("models", "runs"):
        assert not {"binary", "rarer", "bce"} & {
            path.name for path in (finished / "results" / place).glob("*/*/*")
        }
    assert planned(finished) == {}, "they are no failures that are tried again"
    page = (finished / "results/leaderboard.md").read_text()
    assert "skipped: it is for two classes, not 11" in page
    assert "skipped: it is for two classes, not 11" in (finished / "results/report.html").read_text()
    asked = ["--dataset", "digits", "--model", CONFIG["models"][0], "--method", "binary", "--seed", "0"]
    ended = run("common", "evaluate", "--configfile", "tiny.yaml", *asked, cwd=finished, check=False)
    assert ended.returncode == 2 and "binary is not run on digits with" in ended.stderr, ended.stderr


def test_there_is_a_ceiling_for_each_grid(finished: Path, table: pd.DataFrame) -> None:
    assert {*table.index[table["control"]]} == {"majority", "ceiling", "ceiling 2x"}
    assert table.loc["ceiling", "miou_mean"] < table.loc["ceiling 2x", "miou_mean"] < 100
    records = [read_json(path) for path in (finished / "results/controls").glob("*/*/*/ceiling/metrics.json")]
    assert sorted(record["grid"] for record in records) == [1, 2]


def test_decided_labels_have_the_calibration_of_what_they_come_from(
    finished: Path, table: pd.DataFrame
) -> None:
    for score in ("ece_mean", "nll_mean"):
        assert table.loc["rarest", score] == pytest.approx(table.loc["ce", score])
    assert table.loc["rarest", "pixel_accuracy_mean"] != table.loc["ce", "pixel_accuracy_mean"]
    page = (finished / "results/leaderboard.md").read_text()
    assert "Labels of rarest are decided by a rule: ECE and NLL are those of the probabilities" in page


def test_decided_labels_are_predicted(finished: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    labels = {}
    for method in ("ce", "rarest"):
        (folder,) = (finished / "results/runs/digits").glob(f"*/{method}/seed0-*")
        output = tmp_path / method
        arguments = ["--run", str(folder), "--output", str(output), "--probabilities", "--device", "cpu"]
        run("common", "predict", *arguments, str(tmp_path / "picture.png"), cwd=finished)
        labels[method] = np.asarray(Image.open(output / "labels/picture.png"))
        probabilities = np.load(output / "probabilities/picture.npz")["probabilities"].astype(float)
    rule = (probabilities / probabilities.mean(axis=(1, 2), keepdims=True)).argmax(axis=0)
    assert (labels["rarest"] == rule).mean() > 0.9 and (labels["rarest"] != labels["ce"]).any()


def test_a_training_that_prepares_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Its model is that of a training that nobody disturbed, whichever processes load the images."""
    states = []
    for name in ("killed", "undisturbed"):
        folder = cloned(tmp_path / name)
        training = CONFIG["training"]["per_dataset"]["digits"] | {"iterations": 60}
        changes = {"methods": ["edges"], "training": {"per_dataset": {"digits": training}}}
        workers = {"execution": CONFIG["execution"] | {"workers": int(name == "killed"), "log_every": 1}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG | changes | workers))
        if name == "killed":
            snakemake(folder, "--until", "prepare")
            for lines in (5, 20):
                kill(folder, lines)
        snakemake(folder, "--until", "train")
        (path,) = (folder / "results/models").glob("*/*/edges/*/model.pt")
        states.append(read_state(path))
    assert states[0] == states[1]


def kill(folder: Path, lines: int) -> None:
    """Kills a training once its log has so many lines."""
    selection = ["--dataset", "digits", "--model", CONFIG["models"][0], "--method", "edges", "--seed", "0"]
    command = [
        sys.executable,
        "-m",
        "common",
        "train",
        "--configfile",
        "tiny.yaml",
        *selection,
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        logs = [*(folder / "results/models").glob("*/*/edges/*/training.jsonl")]
        if logs and len(logs[0].read_text().splitlines()) >= lines:
            break
        time.sleep(0.02)
    assert process.poll() is None, "it is still training"
    process.send_signal(signal.SIGKILL)
    process.wait()


def read_state(path: Path) -> str:
    """The digest of the weights of a trained model."""
    return torch.load(path, weights_only=True)["state_sha256"]
