"""Stage `estimate`: what the configured benchmark will take, before it starts.

With `--same-cost-as` it writes settings with which other entries cost as much as one of them does.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import get_args

import pandas as pd

from common.files import replacing
from common.machine import devices
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.stages import entry
from common.tables.cells import number
from common.tables.markdown import github
from common.timing import quiet
from common.timing.estimates import estimates
from common.timing.same_cost import (
    Cost,
    Equal,
    check_reference,
    configuration,
    equal_latency,
    equal_training,
)


def estimate(benchmark: Benchmark, cores: int | None = None) -> pd.DataFrame:
    """Writes what is still to be done, and what it will take, as `estimate.csv` and `estimate.md`.

    Args:
        benchmark: What is to be done.
        cores: Those that a job has on a CPU; None is as many as this process uses.

    Returns:
        A row for each dataset, model and method, with the fields of `timing.estimates.Estimate`.

    Raises:
        UserError: A manifest or the data are missing.
    """
    table = estimates(benchmark, cores)
    folder = benchmark.outputs.results
    text = summary(table, devices.describe(devices.choose(benchmark.execution.device)))
    for path, content in (
        (folder / "estimate.csv", table.to_csv(index=False)),
        (folder / "estimate.md", f"# What this benchmark will take\n\n{text}\n"),
    ):
        with replacing(path) as file:
            file.write(content)
    return table


def summary(table: pd.DataFrame, device: str) -> str:
    """The table as Markdown, with totals."""
    cells = pd.DataFrame(
        {
            "dataset": table["dataset"],
            "model": table["model"],
            "method": table["method"],
            "runs": table["runs"],
            "to train": table["to_train"],
            "to measure": table["to_measure"],
            "step ms": table["step_ms"].map(lambda x: number(x, 1)),
            "image ms": table["image_ms"].map(lambda x: number(x, 1)),
            "job s": table["job_seconds"].map(lambda x: number(x, 1)),
            "training h": table["training_hours"].map(lambda x: number(x, 2)),
            "the rest h": table["other_hours"].map(lambda x: number(x, 2)),
            "GPU memory GB": (table["gpu_memory"] / 1e9).map(lambda x: number(x, 1)),
            "disk MB": (table["disk"] / 1e6).map(lambda x: number(x, 0)),
            "from": table["source"],
            "note": table["note"],
        }
    )
    return f"{github(cells)}\n\n{_totals(table, device)}"


def _totals(table: pd.DataFrame, device: str) -> str:
    """What all lines together will take, in a few sentences."""
    if not table[["to_train", "to_score", "to_measure"]].to_numpy().any():
        return "Nothing is left to train, score or measure."
    training, other = table["training_hours"].sum(), table["other_hours"].sum()
    per_run = table["training_hours"] / table["to_train"].where(table["to_train"] > 0) / table["gpus"]
    longest = per_run.max() if per_run.notna().any() else 0.0
    failed = int((table["source"] == "failed").sum())
    without = f", the {failed} that failed left out" if failed else ""
    kind = "GPU-hours" if table["gpu_memory"].notna().any() else "hours of a job's cores"
    return (
        f"Still to do: {training + other:.2f} {kind} on {device}{without}, {training:.2f} of it "
        f"training and {other:.2f} scoring and measuring; the longest single training takes "
        f"{longest:.2f} hours. At the end all runs take at most {table['disk'].sum() / 1e9:.2f} GB of "
        f"disk, and every training up to {table['checkpoint_disk'].max() / 1e9:.2f} GB more for its "
        "checkpoints while it runs. Times are those of one job at a time: the hours of jobs that run side by "
        "side are shared by as many. Waiting for devices, tables and report come on top."
    )


def same_cost(benchmark: Benchmark, reference: str, of: Cost) -> list[Path]:
    """Writes settings with which other entries cost as much as one does, to be laid over the configuration.

    Args:
        benchmark: What it is asked of.
        reference: The entry.
        of: What is to cost the same: training, by iterations; or the latency of an image, by how it is seen.

    Returns:
        A configuration per model, in `same-cost/` of the folder of results.

    Raises:
        UserError: There is no such entry, or a manifest or the data are missing.
    """
    execution, first = benchmark.execution, _first_runs(benchmark)
    check_reference(reference, list(dict.fromkeys(run.method for run in first)))
    files = []
    with devices.leased(execution.device) as device, quiet.measuring(device, execution.quiet_wait) as watch:
        for model in dict.fromkeys(run.model for run in first):
            equals: dict[str, list[Equal]] = {}
            for dataset in dict.fromkeys(run.dataset for run in first):
                runs = {run.method: run for run in first if (run.dataset, run.model) == (dataset, model)}
                if reference in runs:
                    own, others = runs[reference], runs.values()
                    equals[dataset] = (
                        equal_training(own, others, execution, device)
                        if of == "training"
                        else equal_latency(own, others, device)
                    )
            file = benchmark.outputs.results / "same-cost" / f"{reference}-{of}-{model}.yaml"
            about = f"As much {of} as {reference} on {model}: {devices.describe(device)}, {date.today()}"
            busy = watch.load().busy
            with replacing(file) as opened:
                opened.write(configuration(about + (f", busy: {busy}" if busy else ""), equals))
            files.append(file)
    return files


def _first_runs(benchmark: Benchmark) -> list[TrainedRun]:
    """The run of the first seed of every dataset, model and method that is trained here."""
    first: dict[tuple[str, str, str], TrainedRun] = {}
    for run in benchmark.runs:
        if isinstance(run, TrainedRun):
            first.setdefault((run.dataset, run.model, run.method), run)
    return list(first.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the machine, and the entry that others are to cost as much as."""
    entry.add_configuration(parser)
    parser.add_argument(
        "--same-cost-as",
        metavar="METHOD",
        help="instead, write a configuration with which all other methods cost as much as this one",
    )
    parser.add_argument(
        "--of",
        choices=get_args(Cost),
        default="training",
        help="what is to cost the same: training (by iterations; default) or latency (by scales and flip)",
    )
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Estimates the configured benchmark and shows what came of it."""
    benchmark = entry.benchmark(arguments)
    if arguments.same_cost_as:
        for file in same_cost(benchmark, arguments.same_cost_as, arguments.of):
            print(f"{file.read_text()}\nTo use it, lay it over: --configfile {file}")
        return
    table = estimate(benchmark, arguments.config["resources"]["cpus"])
    print(summary(table, devices.describe(devices.choose(benchmark.execution.device))))
