"""Stage `kernels`: times the project's kernels side by side with what they replace."""

from __future__ import annotations

import argparse

from common import devices, failures
from common.stages import entry
from common.timing import kernel_tables
from common.timing.kernels import families


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration and the machine."""
    entry.add_configuration(parser)
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Times everything and writes it down."""
    folder = entry.results(arguments) / "kernels"
    with (
        failures.recording_failure(folder / "error.json", "kernels"),
        devices.leased(entry.execution(arguments).device) as device,
    ):
        kernel_tables.write(folder, families(device), device)
    print(folder / kernel_tables.PAGE)
