"""Command `compare`: which rows changed by more than chance between two result folders.

For example after an upgrade, or on another GPU. It reads the run files only, and needs no configuration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.tables.changes import changes_text
from common.tables.sides import METRICS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two folders and the score."""
    parser.add_argument("first", type=Path, metavar="results-a", help="a folder with runs/")
    parser.add_argument("second", type=Path, metavar="results-b", help="another")
    parser.add_argument("--metric", choices=METRICS, default="miou", help="the score that is compared")


def run(arguments: argparse.Namespace) -> None:
    """Prints what changed."""
    print(changes_text(arguments.first, arguments.second, arguments.metric))
