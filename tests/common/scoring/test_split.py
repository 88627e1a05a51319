"""Scoring of a split: whoever helps, and however many images are predicted together, counts are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.datasets.split import Split
from common.errors import UserError
from common.images.label_maps import LabelMaps
from common.prediction.predictor import Predictor
from common.runs import plan
from common.runs.jobs import Run
from common.scoring import sources
from common.scoring.sources import TrainedSource, source
from common.scoring.split import ScoredSplit, Workers, score, workers
from methods.base import Method
from tests.common.runs import golden

ALONE = Workers(0, 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose seven images have two sizes, and whose logits need no training."""
    pattern = golden.pattern

    def varied(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        width = 40 if index % 3 == 1 else 56
        return tuple(np.ascontiguousarray(array[:, :width]) for array in pattern(index))

    monkeypatch.setattr(golden, "pattern", varied)
    monkeypatch.setitem(golden.PATTERNS, "test", tuple(range(100, 107)))
    monkeypatch.setattr(Predictor, "of", golden.fixed_predictor)
    with golden.prepared(methods=["ce"]) as config:
        yield plan.run(config, "digits", golden.MODEL, "ce", 0)


def scored(run: Run, crew: Workers, predictions: TrainedSource | None = None) -> ScoredSplit:
    split = Split(run.data.dataset, run.data.manifest(), "test")
    device = torch.device("cpu")
    return score(predictions or source(run, device), split, LabelMaps(10**6, run.data.dataset.colours), crew)


def same(one: ScoredSplit, other: ScoredSplit) -> bool:
    """Whether counts, panels and diagnostics of two are equal, bit by bit."""
    arrays, others = asdict(one.counts), asdict(other.counts)
    alike = all(np.array_equal(arrays[key], others[key]) for key in arrays)
    return alike and one.diagnostics == other.diagnostics and all(map(np.array_equal, one.panel, other.panel))


@pytest.mark.parametrize("crew", [Workers(1, 1), Workers(2, 3)])
def test_counts_do_not_depend_on_who_helps(crew: Workers, run: Run) -> None:
    assert same(scored(run, crew), scored(run, ALONE))


def test_who_helps_is_limited_by_the_threads_of_the_job() -> None:
    for threads, on_cpu, on_gpu in ((1, (0, 0), (0, 0)), (2, (1, 1), (1, 1)), (14, (1, 4), (13, 4))):
        torch.set_num_threads(threads)
        assert (workers(torch.device("cpu")), workers(torch.device("cuda"))) == (on_cpu, on_gpu)
    assert workers(torch.device("cuda"), readers=3).readers == 3


class Event:
    """Stands for an event of a GPU."""

    waits = 0

    def __init__(self, blocking: bool) -> None:
        assert blocking, "or else the threads that wait for it take the cores"

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Event.waits += 1


def test_images_of_one_size_are_predicted_together_where_there_is_memory_for_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose batches are of up to four images here, and whose memory is enough for two."""
    unrefined, together = Predictor.unrefined, []

    def limited(self: Predictor, images: Tensor, kind: str = "trained") -> Tensor:
        together.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("no memory")
        return unrefined(self, images, kind)

    alone = scored(run, ALONE)
    predictions = source(run, torch.device("cpu"))
    monkeypatch.setattr(predictions, "_on_gpu", True)
    monkeypatch.setattr(sources, "PIXELS", 4 * 48 * 56)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(Predictor, "unrefined", limited)
    assert same(scored(run, Workers(0, 2), predictions), alone)
    assert together[0] == 4 and max(together[1:]) == 2 and sum(together) == 4 + 7
    assert Event.waits == 7


def test_on_a_cpu_a_method_may_refine_as_many_images_as_there_are_threads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, refinements = [], []
    unrefined = Predictor.unrefined

    def counted(self: Predictor, images: Tensor, kind: str = "trained") -> Tensor:
        networks.append(len(images))
        return unrefined(self, images, kind)

    class Refining(Method):
        def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
            refinements.append(len(images))
            return probabilities

    alone = scored(run, ALONE)
    predictions = source(run, torch.device("cpu"))
    monkeypatch.setattr(predictions._pipeline, "method", Refining(11, 1))
    monkeypatch.setattr(Predictor, "unrefined", counted)
    torch.set_num_threads(3)
    assert same(scored(run, ALONE, predictions), alone)
    assert {*networks} == {1} and max(refinements) == 3 and sum(refinements) == 7


@pytest.mark.parametrize("crew", [ALONE, Workers(2, 2)])
def test_an_image_that_changed_is_named_whoever_reads_it(
    crew: Workers, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = golden.pattern
    monkeypatch.setattr(golden, "pattern", lambda index: pattern(index + 3 * (index == 104)))
    with pytest.raises(UserError, match=r"the image test-00004 of test changed since digits was prepared"):
        scored(run, crew)


@pytest.mark.gpu
def test_scores_of_a_gpu_are_those_of_the_cpu_but_for_rounding(run: Run) -> None:
    device = torch.device("cuda")
    predictions = source(run, device)
    predictions._pipeline.model.to(device)
    predictions._pipeline.device = device
    predictions._on_gpu = True
    alone, helped = scored(run, ALONE, predictions), scored(run, Workers(2, 3), predictions)
    assert same(alone, helped)
    confusion = scored(run, ALONE).counts.confusion
    assert np.abs(alone.counts.confusion - confusion).sum() <= 1e-3 * confusion.sum()
