"""Verb `check`: whether a configuration is sound, or a method's file keeps what every method keeps."""

from __future__ import annotations

import argparse
from pathlib import Path

import methods
from common import compiler
from common.config import catalogue, reading, values
from common.config.schema import unknown
from common.errors import UserError
from common.machine import devices
from common.runs import plan
from common.stages import entry


def check_method(name: str) -> int:
    """Checks one method and prints a line per check, and why for those that fail.

    The checks after one that shows that the file cannot be loaded are left out.

    Args:
        name: The module of `methods/`.

    Returns:
        How many checks have failed.
    """
    with compiler.put_off():  # it imports PyTorch
        from common.training.contract import CHECKS, Specimen, failure, title

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


def check_configuration(names: list[str]) -> None:
    """Checks a configuration, as far as it can be without data, and says what it asks for.

    Args:
        names: Files or presets that are laid over `config.yaml`, later ones over earlier ones.

    Raises:
        UserError: Something in it is wrong.
    """
    config = reading.load([_file(name) for name in names])
    values.check_values_once(config)
    benchmark = plan.benchmark(config)
    counts = {name: len(config[f"{name}s"]) for name in ("dataset", "model", "method", "seed")}
    parts = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()]
    print(f"ok: {' × '.join(parts)}, {len(benchmark.runs)} runs; `structseg run -n` shows the jobs")


def _file(name: str) -> Path:
    """The file of a name: itself, or if it is a plain word and no file, that of the preset.

    Raises:
        UserError: There is no such preset.
    """
    file = Path(name)
    plain_word = file.name == name and not file.suffix
    return catalogue.preset(name, "check config") if plain_word and not file.exists() else file


def check_methods(files: list[str], threads: int | None) -> None:
    """Checks methods.

    Args:
        files: Modules of `methods/`, or their files.
        threads: How many of a CPU to use; all if None.

    Raises:
        UserError: There is no such method, or one fails a check.
    """
    if not files:
        raise UserError("check method: name a module of methods/, or its file")
    names = [Path(name).name.removesuffix(".py") for name in files]
    for name in names:
        if name not in methods.names():
            raise UserError(unknown("check method", name, "module of methods/", methods.names()))
    devices.set_threads(threads)
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
        help="modules of methods/, or their files; of a configuration, files or presets that are laid over "
        "config.yaml",
    )
    entry.add_threads(parser, dest="threads_later")


def run(arguments: entry.Arguments) -> None:
    """Checks what is named.

    Raises:
        UserError: It is not as it should be, or there is no such method.
    """
    if arguments.kind == "config":
        check_configuration(arguments.names)
    else:
        check_methods(arguments.names, arguments.threads_later)
