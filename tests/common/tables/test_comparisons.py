"""Comparisons of runs from their files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import signal, stats

from common.scoring import metrics
from common.scoring.counts import SplitCounts
from common.tables import blocks, cells, comparisons, intervals
from common.tables.bootstrap import Bootstrap, SideCounts
from common.tables.comparisons import compare
from common.tables.sides import METRICS, Side
from tests.synthetic import counts_of

IMAGES, CLASSES = 40, 4


def write(folder: Path, seed: int, skill: float, images: int = IMAGES, common: int = 0) -> tuple[Path, dict]:
    """Counts of a run that finds a share `skill` of the pixels, and its scores."""
    random = np.random.default_rng([seed, round(1000 * skill), common])
    truth = np.random.default_rng(common).integers(50, 200, (images, CLASSES))
    hits = random.binomial(truth, np.clip(skill + 0.02 * random.normal(), 0, 1))
    confusion = np.zeros((images, CLASSES, CLASSES), np.int64)
    for k in range(CLASSES):
        confusion[:, k, k] = hits[:, k]
        confusion[:, k, (k + 1) % CLASSES] = truth[:, k] - hits[:, k]
    boundary = np.stack([hits // 2, truth], axis=1).astype(np.int32)
    path = folder / f"{skill}-{seed}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    counts_of(confusion, boundary).write(path)
    band = boundary.sum(axis=0)
    miou = metrics.mean_iou(confusion.sum(axis=0))
    return path, {
        "miou": miou,
        "boundary_iou": float((band[0] / band[1]).mean()),
        "miou_i": float(metrics.Overlaps.of(confusion).mious.mean()),
    }


def side(folder: Path, skill: float, seeds: range = range(3), **options: int) -> Side:
    written = {seed: write(folder, seed, skill, **options) for seed in seeds}
    scores = {metric: {seed: values[metric] for seed, (_, values) in written.items()} for metric in METRICS}
    return Side(scores, {seed: path for seed, (path, _) in written.items()})


@pytest.mark.parametrize("metric", METRICS)
def test_a_comparison_says_what_its_parts_say(metric: str, tmp_path: Path) -> None:
    one, other = side(tmp_path, 0.8), side(tmp_path, 0.7)
    (line,) = compare(metric, [(one, other)], Bootstrap(None)).to_dict("records")
    differences = [100 * (one.scores[metric][seed] - other.scores[metric][seed]) for seed in range(3)]
    assert line["difference"] == pytest.approx(np.mean(differences))
    assert line["p_seeds"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert (line["seeds"], line["images"], line["note"]) == (3, IMAGES, "")
    assert line["images_low"] < line["difference"] < line["images_high"]
    assert line["low"] < min(line["images_low"], line["seeds_low"])
    assert line["p_holm"] == line["p"] and line["reading"] in ("better", "no difference shown")
    assert line["detectable"] > 0


def test_the_resampled_score_is_that_of_the_counts(tmp_path: Path) -> None:
    path, scores = write(tmp_path, 0, 0.6)
    for metric in METRICS:
        one_by_one = blocks.independent(IMAGES)
        resampled = SideCounts.of([SplitCounts.read(path).compared]).resampled(metric, one_by_one)
        assert resampled.mean() == pytest.approx(scores[metric], abs=0.003)


def test_p_values_are_adjusted_over_the_table(tmp_path: Path) -> None:
    sides = [side(tmp_path, skill) for skill in (0.9, 0.75, 0.71)]
    table = compare("miou", [(s, side(tmp_path, 0.7)) for s in sides], Bootstrap(None))
    assert table["p_holm"].tolist() == pytest.approx(intervals.holm(table["p"].tolist()))
    assert (table["p_holm"] >= table["p"]).all() and table["p_holm"][0] > table["p"][0]
    alone = compare("miou", [(sides[0], side(tmp_path, 0.7))], Bootstrap(None))
    assert alone["detectable"][0] < table["detectable"][0]


def test_what_was_computed_is_remembered_until_the_counts_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cache/bootstrap.json"
    one, other = side(tmp_path, 0.8), side(tmp_path, 0.7)
    remembered = Bootstrap(file)
    first = compare("miou", [(one, other)], remembered)
    remembered.save()
    with monkeypatch.context() as patch:
        patch.setattr(intervals, "resampled_difference", lambda *_: pytest.fail("computed again"))
        again = compare("miou", [(one, other)], Bootstrap(file))
        assert again.equals(first)
        write(tmp_path, 0, 0.8, common=5)
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            compare("miou", [(one, other)], Bootstrap(file))
    for damaged in ("{", "[]"):
        file.write_text(damaged)
        assert compare("miou", [(other, other)], Bootstrap(file))["difference"].tolist() == [0]


def test_identical_results_do_not_differ(tmp_path: Path) -> None:
    one = side(tmp_path, 0.8)
    (line,) = compare("miou", [(one, one)], Bootstrap(None)).to_dict("records")
    assert line["reading"] == "no difference shown" and line["p"] == 1 and line["low"] == line["high"] == 0


def test_one_seed_says_what_it_cannot_say(tmp_path: Path) -> None:
    (line,) = compare(
        "miou", [(side(tmp_path, 0.9, range(1)), side(tmp_path, 0.5))], Bootstrap(None)
    ).to_dict("records")
    assert line["reading"] == "one seed" and line["images_low"] > 0
    assert all(math.isnan(line[key]) for key in ("low", "high", "p", "p_holm", "detectable", "p_seeds"))


def test_missing_and_unlike_counts_are_noted(tmp_path: Path) -> None:
    baseline = side(tmp_path / "a", 0.7)
    unlike, absent = side(tmp_path / "b", 0.8, images=7), side(tmp_path / "c", 0.8)
    partial, broken = side(tmp_path / "d", 0.8), side(tmp_path / "e", 0.8)
    absent.files[1].unlink()
    for path in partial.files.values():
        with np.load(path) as arrays:
            content = {key: array for key, array in arrays.items() if key != "boundary"}
        np.savez_compressed(path, **content)
    broken.files[0].write_bytes(b"PK no archive")
    pairs = [
        (s, baseline) for s in (unlike, absent, partial, broken, Side({metric: {} for metric in METRICS}, {}))
    ]
    table = compare("miou", pairs, Bootstrap(None))
    assert table["note"].tolist()[:2] == ["different images", "no counts per image"]
    assert "lacks boundary" in table["note"][2]
    assert "cannot be read" in table["note"][3] and table["note"][4] == "no common seed"
    assert table["p"].isna().all() and table["reading"].tolist() == [""] * 5
    assert not table["seeds_low"][:4].isna().any(), "the seeds still say what they can"


def test_ranks_with_ties(tmp_path: Path) -> None:
    skills = (0.5, 0.9, 0.905, 0.5)
    sides = [side(tmp_path / str(place), skill, range(6)) for place, skill in enumerate(skills)]
    sides.append(side(tmp_path, 0.99, range(1)))
    ranks = comparisons.ranks("miou", sides, Bootstrap(None))
    assert ranks[:4] == [3, 1, 1, 3] and math.isnan(ranks[4])


def frames(folder: Path, name: str, seeds: range = range(3)) -> dict[int, Path]:
    """Counts of the frames of a video, which resemble the frames before them."""
    truth = np.full((160, CLASSES), 500)
    effect = signal.lfilter([1], [1, -0.9], np.random.default_rng(len(name)).normal(0, 0.3, (160, 1)), axis=0)
    paths = {}
    for seed in seeds:
        hits = np.random.default_rng([seed, len(name)]).binomial(truth, 1 / (1 + np.exp(-effect)))
        confusion = np.zeros((160, CLASSES, CLASSES), np.int64)
        for k in range(CLASSES):
            confusion[:, k, k] = hits[:, k]
            confusion[:, k, (k + 1) % CLASSES] = truth[:, k] - hits[:, k]
        boundary = np.stack([hits // 2, truth], axis=1)
        paths[seed] = folder / f"{name}-{seed}.npz"
        names = np.array([f"test/{frame:03}" for frame in range(160)])
        counts_of(confusion, boundary, names).write(paths[seed])
    return paths


def test_images_that_belong_together_are_resampled_in_blocks(tmp_path: Path) -> None:
    files = [frames(tmp_path, name) for name in ("a", "bb")]
    scores = {metric: dict.fromkeys(range(3), 0.5) for metric in METRICS}
    remembered = Bootstrap(tmp_path / "bootstrap.json")

    def line(placing: blocks.Placing) -> dict:
        one, other = (Side(scores, paths, placing) for paths in files)
        return compare("miou", [(one, other)], remembered).to_dict("records")[0]

    alone, video = line(blocks.alone), line(lambda name: ("video", int(name[-3:])))
    assert (alone["images"], alone["block"], alone["independent_images"]) == (160, 1, 160)
    assert video["images"] == 160 and video["block"] >= 8
    assert video["independent_images"] == pytest.approx(160 / (2 * video["block"] - 1))
    for low, high in (("low", "high"), ("images_low", "images_high")):
        assert video[high] - video[low] > 1.8 * (alone[high] - alone[low])
    assert video["detectable"] > 1.8 * alone["detectable"]
    assert line(lambda name: (name, 0)) == alone, "sequences of one image"
    assert line(lambda name: ("video", int(name[-1]) * 1000 + int(name[-3:])))["block"] < video["block"]


def test_what_could_be_shown_is_no_more_than_a_difference_can_be(tmp_path: Path) -> None:
    one, other = side(tmp_path, 0.8), side(tmp_path, 0.7)
    wild = {metric: {0: 0.05, 1: 0.9, 2: 0.3} for metric in METRICS}
    (line,) = compare("miou", [(Side(wild, one.files), other)], Bootstrap(None)).to_dict("records")
    assert line["p"] > 0.05 and math.isnan(line["detectable"])
    assert cells.could_show(line) == "none"
    (line,) = compare("miou", [(one, other)], Bootstrap(None)).to_dict("records")
    assert 0 < float(cells.could_show(line)) < 70
