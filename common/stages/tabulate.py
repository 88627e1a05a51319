"""Stage `tabulate`: leaderboards and picture panels from whatever run files exist."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common.runs.plan import Benchmark
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
    path = tabulate(entry.benchmark(arguments))
    print(path.read_text(encoding="utf-8"))
    print(f"Written to {path.parent}{os.sep}")
