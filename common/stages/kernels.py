"""Stage `kernels`: times the project's kernels side by side with what they replace."""

from __future__ import annotations

import argparse

from common import devices, failures, machine
from common.stages import entry
from common.timing import kernel_tables
from common.timing.kernels import families


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration and the machine."""
    entry.add_configuration(parser)
    entry.add_machine(parser)


def run(arguments: argparse.Namespace) -> None:
    """Times everything and writes it down."""
    folder, execution = entry.results(arguments) / "kernels", entry.execution(arguments)
    with (
        failures.recording_failure(folder / "error.json", "kernels"),
        devices.leased(execution.device) as device,
        machine.alone(device.type, execution.quiet_wait),
    ):
        kernel_tables.write(folder, families(device), device)
    print(folder / kernel_tables.PAGE)
