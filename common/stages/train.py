"""Stage `train`: one model, trained by one method with one seed.

A plain loop over iterations. Everything random is drawn from streams that depend on the seed and the
iteration alone, so a run that was killed goes on from its last checkpoint and ends with the same model.
"""

from __future__ import annotations

import argparse

from common.stages import entry
from common.training import processes
from common.training.train import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the stage."""
    entry.add_configuration(parser)
    entry.add_selection(parser, "dataset", "model", "method", "seed")
    parser.add_argument(
        "--member", type=int, default=0, help="which further model of an ensemble (default: that of the seed)"
    )
    entry.add_machine(parser)


def run(arguments: entry.Arguments) -> None:
    """Trains the selected model."""
    training = entry.training(arguments)
    train(training, entry.execution(arguments), arguments.config)
    if not processes.started():
        print(training.file)
