"""Verb `check`: whether a method's file keeps what every method keeps, check by check."""

from __future__ import annotations

import argparse
from pathlib import Path

import methods
from common.config.schema import unknown
from common.errors import UserError
from common.stages import entry
from common.training.contract import CHECKS, Specimen, failure, title


def check_method(name: str) -> int:
    """Checks one method and prints a line per check, and why for those that fail.

    The checks after one that shows that the file cannot be loaded are left out.

    Args:
        name: The module of `methods/`.

    Returns:
        How many checks have failed.
    """
    failures = 0
    for check in CHECKS:
        reason = failure(check, Specimen(name))
        print(f"{'no' if reason else 'ok'}  {title(check)}", flush=True)
        if reason:
            print(f"    {reason}", flush=True)
            failures += 1
            if check is CHECKS[0]:
                break
    return failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is checked."""
    parser.add_argument("kind", choices=["method"], help="what is checked")
    parser.add_argument("names", nargs="+", metavar="NAME", help="modules of methods/, or their files")
    entry.add_threads(parser)


def run(arguments: entry.Arguments) -> None:
    """Checks the methods that are named.

    Raises:
        UserError: There is no such method, or one fails a check.
    """
    names = [Path(name).name.removesuffix(".py") for name in arguments.names]
    for name in names:
        if name not in methods.names():
            raise UserError(unknown("check method", name, "module of methods/", methods.names()))
    failed = {}
    for name in names:
        if len(names) > 1:
            print(f"methods/{name}.py")
        failed[name] = check_method(name)
    if any(failed.values()):
        counts = ", ".join(f"{count} of methods/{name}.py" for name, count in failed.items() if count)
        raise UserError(f"checks have failed: {counts} (see above)")
