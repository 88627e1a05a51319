"""Command `merge`: joins the results of two machines.

What is whole is copied, and nothing that is there is replaced: of two results of one name the one that was
there stays, and the other is named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UserError
from common.runs.merging import merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two folders."""
    parser.add_argument("source", type=Path, metavar="FROM", help="a folder of results, which is only read")
    parser.add_argument("target", type=Path, metavar="INTO", help="the folder that they are copied into")


def run(arguments: argparse.Namespace) -> None:
    """Merges and says what was done.

    Raises:
        UserError: Something was not copied.
    """
    merged = merge(arguments.source, arguments.target)
    print(merged.text(), flush=True)
    if merged.refused:
        raise UserError(
            f"{len(merged.refused)} results were not copied, for the reasons above; all others are merged"
        )
