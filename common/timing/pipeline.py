"""Times of whole jobs beside the work in them: start, training, scoring, planning.

Jobs are called as the workflow calls them, each a process of its own, on the first dataset and model of a
configuration, with results in a folder that is deleted in the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from common.datasets.loading import batches, samples
from common.datasets.split import Split
from common.errors import UserError
from common.images.label_maps import LabelMaps
from common.installation import MODULE, ROOT
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.scoring.sources import Source, source
from common.scoring.split import Workers, score, workers
from common.timing.cases import QUICK, Bench, Case, Timing
from common.timing.clock import timed
from common.timing.training import training_cost


class Extent(NamedTuple):
    """How much there is to do.

    Attributes:
        steps: Of the training that is timed.
        seeds: So many runs are planned.
    """

    steps: int
    seeds: int


FULL_EXTENT = Extent(steps=1000, seeds=10_000)
QUICK_EXTENT = Extent(steps=100, seeds=100)


class Plan(NamedTuple):
    """A benchmark, and the file with its complete configuration."""

    file: Path
    benchmark: Benchmark


Planner = Callable[[Path, int, int], Plan]
"""From a folder for all files, the steps of a training and the number of seeds to a benchmark."""


def pipeline(planner: Planner, bench: Bench) -> Iterator[Case]:
    """Jobs beside what they cannot do without, in seconds of wall time.

    Args:
        planner: Plans the jobs.
        bench: Where and how.
    """
    extent = QUICK_EXTENT if bench.effort == QUICK else FULL_EXTENT
    with tempfile.TemporaryDirectory(prefix="structseg-pipeline-") as name:
        folder = Path(name)
        first = planner(folder / "first", 1, 1)
        whole = planner(folder / "whole", extent.steps, 1)
        many = planner(folder / "many", extent.steps, extent.seeds)
        trained = cache(lambda: _trained(whole, bench))
        loaded = cache(lambda: _Scoring(trained(), bench.device))

        start = {"work": "start"}
        yield Case(start, "import torch", lambda: _call("-c", "import torch"), reference=True)
        yield Case(start, "a training of one step", lambda: _job("train", first, bench))
        training = {"work": f"training, {extent.steps} steps"}
        yield Case(training, "steps alone", lambda: _steps(whole, bench), reference=True)
        yield Case(training, "the job", lambda: _job("train", whole, bench))
        scoring = {"work": "scoring"}
        yield Case(scoring, "reading and predicting alone", lambda: loaded().predicting(), reference=True)
        yield Case(scoring, "scoring", lambda: loaded().scoring())
        yield Case(scoring, "the job", lambda: _job("evaluate", whole, bench, after=trained))
        planning = {"work": f"planning, {extent.seeds} runs"}
        yield Case(planning, "status", lambda: _call("-m", MODULE, "status", "--configfile", many.file))
        snakemake = ("-m", "snakemake", "-n", "--cores", "1", "--configfile", many.file)
        yield Case(planning, "snakemake -n", lambda: _call(*snakemake))


class _Scoring:
    """A trained run whose images are predicted, and scored, again and again."""

    def __init__(self, run: TrainedRun, device: torch.device) -> None:
        self._run, self._device = run, device
        self._split = Split(run.data.dataset, run.data.manifest(), run.evaluation.split)
        self._source: Source = source(run, device)
        self._crew: Workers = workers(device)
        self.predicting()  # the first time, kernels and workers have to be made ready

    @torch.inference_mode()
    def predicting(self) -> Timing:
        """All images read, and predicted in batches as scoring does."""

        def predict() -> None:
            for batch in batches(samples(self._split, self._crew.readers), self._source.most):
                names = [self._split.names[index] for index in batch.indices]
                for prediction in self._source.predict(names, batch):
                    prediction()

        return {"seconds": timed(predict, self._device)[1]}

    def scoring(self) -> Timing:
        """All images scored."""
        maps = LabelMaps(0, self._run.data.dataset.colours)
        _, seconds = timed(lambda: score(self._source, self._split, maps, self._crew), self._device)
        return {"seconds": seconds}


def _run(plan: Plan) -> TrainedRun:
    run = plan.benchmark.runs[0]
    assert isinstance(run, TrainedRun)
    return run


def _steps(plan: Plan, bench: Bench) -> Timing:
    """As many steps as the training has, at the time of one, without loading."""
    _prepared(plan, bench)
    training = _run(plan).training
    cost = training_cost(training, plan.benchmark.execution, bench.device)
    return {"seconds": training.settings.iterations * cost.training_step_ms / 1000}


def _trained(plan: Plan, bench: Bench) -> TrainedRun:
    """The run, once its model is there."""
    run = _run(plan)
    if not run.training.file.exists():
        _job("train", plan, bench)
    return run


def _prepared(plan: Plan, bench: Bench) -> None:
    """Looks at the data, if nobody has."""
    run = _run(plan)
    if not run.data.path.exists():
        selection = ["--dataset", run.dataset]
        _call("-m", MODULE, "prepare", "--configfile", plan.file, *selection)


def _job(verb: str, plan: Plan, bench: Bench, after: Callable[[], object] = lambda: None) -> Timing:
    """A stage as a process, from its start to its end."""
    _prepared(plan, bench)
    after()
    run = _run(plan)
    selection = ["--dataset", run.dataset, "--model", run.model, "--method", run.method]
    machine = ["--seed", run.seed, "--threads", torch.get_num_threads()]
    return _call("-m", MODULE, verb, "--configfile", plan.file, *selection, *machine)


def _call(*arguments: object) -> Timing:
    """Python with these arguments; its locks are its own, for this process has the machine.

    Raises:
        UserError: It fails.
    """
    with tempfile.TemporaryDirectory(prefix="structseg-locks-") as locks:
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"STRUCTSEG_LOCKS": locks},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
    if ended.returncode:
        raise UserError(f"{' '.join(map(str, arguments[:3]))} fails: {ended.stderr.strip()[-200:]}")
    return {"seconds": seconds}
