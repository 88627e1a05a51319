"""Two result folders side by side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import EvaluationSettings
from common.datasets.manifest import Manifest, SplitManifest
from common.errors import UserError
from common.integrity import StoredFile
from common.provenance import Provenance
from common.runs.records import Metrics, TrainedModelFacts
from common.scoring.counts import SplitCounts
from common.tables.changes import changes, changes_text
from tests.synthetic import PROVENANCE, counts_of


def write(
    results: Path,
    method: str,
    seed: int,
    skill: float,
    digest: str = "0a1b",
    written: str = "2026-01-01",
    counts: SplitCounts | None = None,
    **changes: Any,
) -> Path:
    """A run with those counts, or one that finds a share `skill` of each class, with chance from both."""
    random = np.random.default_rng([seed, round(1e4 * skill)])
    truth = np.random.default_rng(0).integers(100, 300, (40, 2))
    hits = random.binomial(truth, skill + 0.003 * random.normal())
    misses = truth - hits
    confusion = np.stack(
        [np.stack([hits[:, 0], misses[:, 0]], 1), np.stack([misses[:, 1], hits[:, 1]], 1)], axis=1
    )
    folder = results / "runs" / "digits" / "net" / method / f"seed{seed}-{digest}"
    boundary = np.stack([hits // 2, truth], axis=1)
    names = np.arange(40).astype(str)
    counts = counts or counts_of(confusion, boundary, names)
    counts.write(folder / "per_image.npz")
    Metrics(
        **{**counts.scores(("background", "one")), "images": 40, "content_sha256": "c", **changes},
        dataset="digits",
        model="net",
        method=method,
        seed=seed,
        digest=digest,
        split="test",
        evaluation=EvaluationSettings("test", (1.0,), False),
        provenance=Provenance(written, "c" * 40, {"torch": "2"}, "a CPU"),
        wall_seconds=1.0,
        peak_memory=1,
        files=StoredFile.all_of([folder / "per_image.npz"]),
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


def test_results_of_different_recipes_are_told(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    facts = TrainedModelFacts("0a", "c", None, 60.0, 1, PROVENANCE, "0" * 64, 0)
    for seed in (0, 1):
        write(first, "ce", seed, 0.6, "aa", recipe=0, trained=facts)
        write(second, "ce", seed, 0.6, "bb", recipe=seed, trained=replace(facts, recipe=1))
        write(first, "rmi", seed, 0.6, recipe=1)
        write(second, "rmi", seed, 0.6, recipe=1)
    notes = changes(first, second).set_index("method")["note"].to_dict()
    assert notes["rmi"] == ""
    assert notes["ce"] == (
        "scoring by recipe 0 in A, 0 and 1 in B; training by recipe 0 in A, 1 in B; "
        "other settings or another code of the method are possible, too"
    )
    text = changes_text(first, second)
    assert "training recipe 0, scoring recipe 0 and 1)" in text
    assert "training recipe 1, scoring recipe 0 and 1)" in text


def test_results_of_other_images_or_labels_are_told(tmp_path: Path) -> None:
    """Names of images may be the same, and so may digests: they say nothing of what is in the files."""
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, "ce", 0, 0.6)
    write(second, "ce", 0, 0.7, content_sha256="d")
    (note,) = changes(first, second)["note"]
    assert note == "WARNING: of other images or labels in A than in B"
    assert note in changes_text(first, second)


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
    assert "seed 0 left out" in line["note"] and "per_image.npz is missing" in line["note"]
    assert line["reading"] == "unreadable in A" and np.isnan(line["difference"])


def test_a_folder_without_results_is_one_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no results"):
        changes(folders[0], tmp_path / "nowhere")


def test_a_damaged_file_costs_its_seed(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "runs/digits/net/rmi/seed0-0a1b/metrics.json"
    before = changes(*folders).set_index("method")
    path.write_text('{"miou": 2}')
    after = changes(*folders).set_index("method")
    assert (
        "seed 0 left out" in after.loc["rmi", "note"] and f"{path} cannot be read" in after.loc["rmi", "note"]
    )
    assert after.loc["rmi", "seeds"] == before.loc["rmi", "seeds"] - 1
    assert f"{path} cannot be read" in changes_text(*folders) and path.exists(), "comparing changes no file"


def test_images_belong_together_as_the_manifest_says(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    names = [f"{frame:02}" for frame in range(40)]
    for number, folder in enumerate(folders):
        for seed in range(3):
            write(folder, "ce", seed, 0.6, counts=frames(np.random.default_rng([number, seed]), names))
    assert "digits: images are resampled one by one" in changes_text(*folders)
    split = SplitManifest(
        names, [], {}, {}, 0, (0, 0, 0), (1, 1, 1), [("video", frame) for frame in range(40)], names
    )
    Manifest("digits", {}, "d", [], [], 255, "c", {"test": split}, PROVENANCE, 1.0, []).write(
        folders[1] / "datasets/digits-d.json"
    )
    assert "digits: images of a sequence are resampled in blocks of 5 on average" in changes_text(*folders)


def frames(random: np.random.Generator, names: list[str]) -> SplitCounts:
    """Counts of the frames of a video, of which ten and ten are alike."""
    hits = np.repeat(random.integers(200, 400, (4, 1)), 10, axis=0) + np.zeros((40, 2), int)
    misses = 500 - hits
    rows = [np.stack([hits[:, 0], misses[:, 0]], 1), np.stack([misses[:, 1], hits[:, 1]], 1)]
    boundary = np.stack([hits // 2, hits], axis=1)
    return counts_of(np.stack(rows, axis=1), boundary, np.array([f"test/{name}" for name in names]))
