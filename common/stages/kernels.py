"""Stage `kernels`: times the project's kernels and methods, side by side with what they replace."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from common import failures
from common.config import entries, reading
from common.config.entries import Config
from common.config.settings import typed
from common.files import write_json
from common.kernels import resources
from common.machine import devices
from common.networks.options import ModelOptions
from common.runs import plan
from common.stages import entry
from common.timing import kernel_benchmark, kernel_tables, pipeline, quiet, steps
from common.timing.cases import FULL, QUICK, Family
from common.timing.kernels import FAMILIES
from common.timing.pipeline import Plan
from common.timing.steps import Subject, Workload

NAMES = (*FAMILIES, "loss", "step")
"""Of the families that are measured if none is named."""

JOBS = "pipeline"
"""The family of whole jobs, which takes minutes and needs the data of the configuration."""

WORKLOADS = {
    "cuda": (
        ("voc", "deeplabv3-resnet50", {"output_stride": 16}, (16, 21, 513, 513)),
        ("camvid", "deeplabv3plus-tf_efficientnet_lite0", {}, (16, 11, 360, 480)),
    ),
    "cpu": (
        ("voc", "deeplabv3-test_resnet", {"output_stride": 16}, (2, 21, 129, 129)),
        ("camvid", "deeplabv3plus-test_resnet", {"output_stride": 8}, (2, 11, 90, 120)),
    ),
}
"""What methods are timed on: the dataset whose options count, model, its options, and N, K, H, W."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the machine, and what is measured how."""
    entry.add_configuration(parser)
    entry.add_machine(parser)
    parser.add_argument(
        "--family", nargs="+", choices=(*NAMES, JOBS), default=NAMES, help=f"default: all but {JOBS}"
    )
    parser.add_argument("--quick", action="store_true", help="few repeats; writes into kernels/quick/")
    parser.add_argument("--baselines", action="store_true", help="time what the kernels replace, too")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="show what the GPU kernels take of registers and memory instead; needs no GPU",
    )


def run(arguments: argparse.Namespace) -> None:
    """Times what is asked for and writes it down, row by row."""
    if arguments.compiled:
        print(resources.markdown(resources.table()))
        return
    folder, execution = entry.results(arguments) / "kernels", entry.execution(arguments)
    if arguments.quick:
        folder /= "quick"
    patience = 0 if arguments.quick else execution.quiet_wait
    with (
        failures.recording_failure(folder / "error.json", "kernels"),
        devices.leased(execution.device) as device,
        quiet.measuring(device, patience) as watch,
    ):
        choices = families(arguments.config, device)
        selected = {name: family for name, family in choices.items() if name in arguments.family}
        effort = QUICK if arguments.quick else FULL[device.type]
        kernel_benchmark.run(folder, selected, device, effort, arguments.baselines, watch)
    print(folder / kernel_tables.PAGE)


def families(config: Config, device: torch.device) -> dict[str, Family]:
    """All that can be measured, by name."""
    made = workloads(config, device)
    return {
        **FAMILIES,
        "loss": partial(steps.loss, made),
        "step": partial(steps.step, made),
        JOBS: partial(pipeline.pipeline, partial(_planned, config, device)),
    }


def _planned(config: Config, device: torch.device, folder: Path, iterations: int, seeds: int) -> Plan:
    """The benchmark of the baseline on the first dataset and model, with results in a folder of its own."""
    dataset, model = config["datasets"][0], config["models"][0]
    own = {
        "datasets": [dataset],
        "models": [model],
        "methods": [config["tables"]["baseline"]],
        "seeds": [*range(seeds)],
        "results": str(folder / "results"),
        "training": {"per_model": {model: {"iterations": iterations, "warmup": 0}}},
        "execution": {"device": str(device), "quiet_wait": 0},
    }
    complete = reading.complete(reading.merge(config, own))
    file = folder / "configuration.json"
    write_json(file, complete)
    return Plan(file, plan.benchmark(complete))


def workloads(config: Config, device: torch.device) -> list[Workload]:
    """What methods are timed on, with the options that the configuration gives them.

    Raises:
        UserError: A method of the configuration has an option that is wrong.
    """
    chosen = WORKLOADS[device.type]
    options = {model: settings for _, model, settings, _ in chosen}
    models = list(dict.fromkeys([*config["models"], *options]))
    config = reading.complete(reading.merge(config, {"models": models, "model_options": options}))
    baseline = config["tables"]["baseline"]
    return [
        Workload(
            model,
            typed(ModelOptions, config["model_options"][model]),
            plan.training_settings(config, dataset, model),
            size,
            _subjects(config, dataset, baseline),
            baseline,
        )
        for dataset, model, _, size in chosen
    ]


def _subjects(config: Config, dataset: str, first: str) -> list[Subject]:
    """All methods that can be trained from the start or that refine what another has trained, one first."""
    names = sorted(entries.method_names(config), key=lambda name: (name != first, name))
    own = [entries.entry(config, name, dataset) for name in names]
    return [
        Subject(method, entries.trained_method(config, method.name, dataset))
        for method in own
        if isinstance(method, entries.MethodEntry) and method.kind == "method" and not method.start
    ]
