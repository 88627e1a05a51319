"""Verb `check`: whether a configuration is sound, or a method's file keeps what every method keeps."""

from __future__ import annotations

import argparse
from pathlib import Path

import methods
from common.config import reading, values
from common.config.schema import unknown
from common.errors import UserError
from common.runs import plan
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


def check_configuration(files: list[Path]) -> None:
    """Checks a configuration, as far as it can be without data, and says what it asks for.

    Args:
        files: Laid over `config.yaml`, later ones over earlier ones.

    Raises:
        UserError: Something in it is wrong.
    """
    config = reading.load(files)
    values.check_values_once(config)
    asked = plan.benchmark(config)
    counts = {name: len(config[f"{name}s"]) for name in ("dataset", "model", "method", "seed")}
    parts = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()]
    print(f"ok: {' × '.join(parts)}, {len(asked.runs)} runs; `structseg run -n` shows the jobs")


def check_methods(files: list[str]) -> None:
    """Checks methods.

    Args:
        files: Modules of `methods/`, or their files.

    Raises:
        UserError: There is no such method, or one fails a check.
    """
    if not files:
        raise UserError("check method: name a module of methods/, or its file")
    names = [Path(name).name.removesuffix(".py") for name in files]
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is checked."""
    parser.add_argument("kind", choices=["method", "config"], help="what is checked")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="modules of methods/, or their files; of a configuration, files that are laid over config.yaml",
    )
    entry.add_threads(parser)


def run(arguments: entry.Arguments) -> None:
    """Checks what is named.

    Raises:
        UserError: It is not as it should be, or there is no such method.
    """
    if arguments.kind == "config":
        check_configuration([Path(name) for name in arguments.names])
    else:
        check_methods(arguments.names)
