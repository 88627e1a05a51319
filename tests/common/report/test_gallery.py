"""Which images the page shows, and which part of them is enlarged."""

from __future__ import annotations

import numpy as np

from common.datasets.digits import Digits
from common.report import examples, gallery
from tests.conftest import TINY


class Scored:
    """What `choose` needs of predictions."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.names = scores, set(scores)


def test_images_are_chosen_where_methods_differ_most_where_all_are_worst_and_in_the_middle() -> None:
    first = Scored({"a": 90, "b": 10, "c": 60, "d": 61, "e": 80, "only here": 1})
    second = Scored({"a": 90, "b": 12, "c": 95, "d": 60, "e": 79})
    assert gallery.choose([first, second], 1) == [
        ("c", "methods differ most"),
        ("b", "worst of all methods"),
        ("e", "usual"),
    ]
    everything = gallery.choose([first, second], 9)
    assert sorted(name for name, _ in everything) == ["a", "b", "c", "d", "e"]
    assert gallery.choose([first, second], 0) == [] and gallery.choose([], 3) == []
    assert [reason for _, reason in gallery.choose([first], 1)] == ["worst of all methods", "usual"]


def test_the_enlarged_part_is_where_methods_disagree() -> None:
    _, truth = Digits(**TINY["dataset_options"]["digits"]).read("test", "test-00000")
    other = truth.copy()
    other[30:40, 5:15] = (truth[30:40, 5:15] + 1) % 10
    rows, columns = examples._window({"a": truth, "b": other}, truth)
    assert (other != truth)[rows, columns].any()
    flat = np.zeros_like(truth)
    flat[30:40, 5:15] = 1
    rows, columns = examples._window({"a": flat, "b": np.zeros_like(flat)}, flat)
    assert rows.start <= 30 and rows.stop >= 40 and columns.start <= 5 and columns.stop >= 15
