"""Stage `tabulate`: leaderboards and picture panels from whatever run files exist."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common.errors import UnreadableRecord
from common.runs.benchmark import Benchmark
from common.stages import entry
from common.tables.writing import write_tables


def tabulate(benchmark: Benchmark) -> Path:
    """Writes all tables and panels and returns the path of the leaderboard in Markdown."""
    return write_tables(benchmark)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration."""
    entry.add_configuration(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes the tables of the configuration's runs."""
    benchmark = entry.benchmark(arguments)
    try:
        tabulate(benchmark)
    except UnreadableRecord:
        show(benchmark)
        raise
    show(benchmark)


def show(benchmark: Benchmark) -> None:
    """Prints the leaderboard, and where it lies."""
    folder = benchmark.outputs.results
    print((folder / "leaderboard.md").read_text(encoding="utf-8"))
    print(f"Written to {folder}{os.sep}", flush=True)
