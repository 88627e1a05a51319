"""The tables of the page, from lines of numbers and counts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from common.report import confusion_tables, leaderboard_table, score_tables


def test_cells_are_sorted_by_exact_numbers_and_read_well() -> None:
    lines = pd.DataFrame(
        {
            "model": ["m", "m"],
            "method": ["rmi", "ce"],
            "miou_mean": [61.23456, 60.0],
            "miou_low": [60.1, math.nan],
            "miou_high": [62.4, math.nan],
            "difference_mean": [1.23456, math.nan],
            "reading": ["no difference shown", "baseline"],
            "parameters": [1.5e6, 1.5e6],
            "agreement": [math.nan, math.nan],
            "control": [False, False],
            "error": ["seed 1: failed", math.nan],
        }
    )
    compared = pd.DataFrame(
        [["m", "rmi", "miou", 0.1, 2.3]], columns=["model", "method", "metric", "images_low", "images_high"]
    )
    table = leaderboard_table.leaderboard(lines, compared, "ce", "a caption")
    titles = [column.title for column in table.columns]
    assert titles == ["method", "mIoU %", "Δ ce", "reading", "params M"], "without columns that are empty"
    rmi, ce = (dict(zip(titles, row.cells)) for row in table.rows)
    assert (rmi["mIoU %"].text, rmi["mIoU %"].value, rmi["mIoU %"].note) == (
        "61.23",
        61.23456,
        "60.10 to 62.40",
    )
    assert (rmi["Δ ce"].text, ce["Δ ce"].text) == ("+1.23", "baseline")
    assert rmi["Δ ce"].note == "+0.10 to +2.30*", "of images alone, if seeds say nothing"
    assert rmi["method"].note == "seed 1: failed" and rmi["params M"].text == "1.50"
    assert ce["mIoU %"].note == "" and not table.rows[1].control


def test_doubtful_times_and_uncounted_operations_have_a_mark() -> None:
    lines = pd.DataFrame(
        {
            "model": ["m", "m"],
            "method": ["crf", "ce"],
            "miou_mean": [61.0, 60.0],
            "training_minutes": [2.217, 1.5],
            "training_doubt": ["same trainings disagree", math.nan],
            "network_ms": [100.0, 90.0],
            "latency_doubt": ["", "busy machine"],
            "multiply_adds": [3e9, 3e9],
            "uncounted": ["refinement", ""],
            "control": [False, False],
            "error": [math.nan, math.nan],
        }
    )
    compared = pd.DataFrame(columns=["model", "method", "metric", "images_low", "images_high"])
    table = leaderboard_table.leaderboard(lines, compared, "ce", "a caption")
    titles = [column.title for column in table.columns]
    crf, ce = (dict(zip(titles, row.cells)) for row in table.rows)
    assert (crf["train min"].text, ce["train min"].text) == ("~2.22", "1.50")
    assert (crf["network ms"].text, ce["network ms"].text) == ("100.0", "~90.0")
    assert (crf["mult-adds G"].text, ce["mult-adds G"].text) == ("≥ 3.00", "3.00")
    assert crf["train min"].value == 2.217, "sorted by the number"


def test_classes_are_coloured_by_the_difference_to_the_baseline() -> None:
    lines = pd.DataFrame(
        [
            ("ce", "road", 50.0),
            ("ce", "pole", 20.0),
            ("rmi", "road", 45.0),
            ("rmi", "pole", math.nan),
            ("majority", "road", 40.0),
            ("majority", "pole", 0.0),
        ],
        columns=["method", "class", "iou_mean"],
    )
    table = score_tables.class_table(lines, ["rmi", "ce", "majority"], {"majority"}, "ce", "a caption")
    road, pole = table.rows[0].cells[1:]
    assert (road.text, road.note, road.tone, road.strength) == ("45.0", "−5.0", "minus", 0.5)
    assert pole.text == "–" and pole.value is None and pole.tone == ""
    for row in table.rows[1:]:
        assert [cell.tone for cell in row.cells] == ["", "", ""], "neither the baseline nor a control"
    assert [row.control for row in table.rows] == [False, False, True]


def test_confusions_in_words_leave_out_what_is_right() -> None:
    counts = np.array([[90, 10, 0], [30, 70, 0], [0, 0, 0]])
    assert (
        confusion_tables.confusions_text(counts, ["a", "b", "c"])
        == "b taken for a (30 %), a taken for b (10 %)"
    )
    table = confusion_tables.confusion_table(counts, ["a", "b", "c"], "a caption")
    assert [cell.text for cell in table.rows[1].cells] == ["b", "30.0", "70.0", ""]
    assert [cell.text for cell in table.rows[2].cells] == ["c", "–", "–", "–"]
