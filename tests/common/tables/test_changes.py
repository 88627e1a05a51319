"""Two result folders side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.config.settings import EvaluationSettings
from common.errors import UserError
from common.provenance import Provenance
from common.runs.records import Metrics
from common.tables.changes import changes, changes_text
from tests.synthetic import counts_of, plain_scores


def write(
    results: Path, method: str, seed: int, skill: float, digest: str = "0a1b", written: str = "2026-01-01"
) -> Path:
    """A run that finds a share `skill` of each class, with chance from seed and skill."""
    random = np.random.default_rng([seed, round(1e4 * skill)])
    truth = np.random.default_rng(0).integers(100, 300, (40, 2))
    hits = random.binomial(truth, skill + 0.003 * random.normal())
    misses = truth - hits
    confusion = np.stack(
        [np.stack([hits[:, 0], misses[:, 0]], 1), np.stack([misses[:, 1], hits[:, 1]], 1)], axis=1
    )
    total = confusion.sum(axis=0)
    iou = np.diag(total) / (total.sum(0) + total.sum(1) - np.diag(total))
    folder = results / "runs" / "digits" / "net" / method / f"seed{seed}-{digest}"
    boundary = np.stack([hits // 2, truth], axis=1)
    names = np.arange(40).astype(str)
    counts_of(confusion, boundary, names).write(folder / "per_image.npz")
    Metrics(
        **(plain_scores(0.5) | {"miou": float(iou.mean()), "images": 40}),
        dataset="digits",
        model="net",
        method=method,
        seed=seed,
        digest=digest,
        split="test",
        evaluation=EvaluationSettings("test", (1.0,), False),
        content_sha256="c",
        provenance=Provenance(written, "c" * 40, {"torch": "2"}, "a CPU"),
        wall_seconds=1.0,
        peak_memory=1,
    ).write(folder / "metrics.json")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A has ce, rmi, gone and dice; in B ce is as before, rmi better, dice trained again, and new is new."""
    first, second = tmp_path / "a", tmp_path / "b"
    for seed in range(4):
        for method, skills in (("ce", (0.6, 0.6)), ("rmi", (0.6, 0.7)), ("dice", (0.6, 0.601))):
            for folder, skill in zip((first, second), skills):
                write(folder, method, seed, skill)
        write(first, "gone", seed, 0.6)
        write(second, "new", seed, 0.6)
    return first, second


def test_what_changed_by_more_than_chance(folders: tuple[Path, Path]) -> None:
    table = changes(*folders).set_index("method")
    assert table["reading"].to_dict() == {
        "ce": "identical",
        "rmi": "higher",
        "dice": "no change shown",
        "gone": "only in A",
        "new": "only in B",
    }
    assert table.loc["rmi", "low"] > 0 and table.loc["rmi", "p_holm"] < 0.05
    assert table.loc["ce", "difference"] == 0 and table.loc["rmi", "images"] == 40
    assert changes(*folders[::-1]).set_index("method").loc["rmi", "reading"] == "lower"


def test_the_text_is_a_table_with_what_is_missing(folders: tuple[Path, Path]) -> None:
    text = changes_text(*folders)
    assert text.startswith("1 of 5 rows changed by more than chance.")
    assert "commit cccccccccc, torch 2, device a CPU" in text
    (line,) = [line for line in text.splitlines() if "| gone " in line]
    assert "| only in A " in line
    assert "| higher " in text and "[+" in text


def test_several_results_of_a_seed(tmp_path: Path) -> None:
    """The one that both have is taken; else the latest, and that is said."""
    first, second = tmp_path / "a", tmp_path / "b"
    for seed in (0, 1):
        write(first, "ce", seed, 0.6, "aa", "2026-01-01")
        write(first, "ce", seed, 0.7, "bb", "2026-02-01")
        write(second, "ce", seed, 0.6, "aa", "2026-03-01")
    (line,) = changes(first, second).to_dict("records")
    assert line["reading"] == "identical" and line["note"] == ""
    shutil.rmtree(second)
    for seed in (0, 1):
        write(second, "ce", seed, 0.7, "cc")
    (line,) = changes(first, second).to_dict("records")
    assert line["reading"] == "identical"
    assert line["note"] == (
        "other settings or another code of the method; several results in A, the latest taken: seed 0, 1"
    )


def test_seeds_that_only_one_has_are_left_out(folders: tuple[Path, Path]) -> None:
    for seed in (1, 2, 3):
        shutil.rmtree(folders[1] / f"runs/digits/net/rmi/seed{seed}-0a1b")
    line = changes(*folders).set_index("method").loc["rmi"]
    assert line["seeds"] == 1 and line["reading"] == "one seed" and line["note"] == "seeds of both: 0"
    assert line["images_low"] > 0 and "]*" in changes_text(*folders)


def test_without_counts_it_says_so(folders: tuple[Path, Path]) -> None:
    for path in (folders[0] / "runs/digits/net/rmi").rglob("per_image.npz"):
        path.unlink()
    line = changes(*folders).set_index("method").loc["rmi"]
    assert line["note"] == "no counts per image" and line["reading"] == "" and line["difference"] > 0


def test_a_folder_without_results_is_one_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no results"):
        changes(folders[0], tmp_path / "nowhere")


def test_a_damaged_file_is_one_sentence(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "runs/digits/net/rmi/seed0-0a1b/metrics.json"
    path.write_text('{"miou": 2}')
    with pytest.raises(UserError, match="metrics.json cannot be read"):
        changes(*folders)
