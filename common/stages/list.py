"""Verb `list`: what a configuration can choose from, a line each."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping

from common.config import catalogue
from common.errors import UserError
from common.stages import entry

KINDS = ("methods", "datasets", "models", "presets", "options")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is listed."""
    parser.add_argument("kind", choices=KINDS, help="what is listed")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the method or dataset with the options")
    entry.add_configuration(parser)


def run(arguments: entry.Arguments) -> None:
    """Lists what is asked for.

    Raises:
        UserError: A name is missing or too much, or there is no such method or dataset.
    """
    if (arguments.name is None) == (arguments.kind == "options"):
        raise UserError("list: name a method or a dataset behind `options`, and nothing behind the others")
    if arguments.kind == "options":
        _show(catalogue.option_lines(arguments.config, arguments.name))
    elif arguments.kind == "methods":
        _show(catalogue.method_lines(arguments.config))
    elif arguments.kind == "datasets":
        _show(catalogue.dataset_lines(arguments.config))
    elif arguments.kind == "presets":
        _show(catalogue.preset_lines())
    else:
        _show(catalogue.model_lines())
        print("\nThere are all <architecture>-<backbone> of these architectures and timm's backbones.")


def _show(lines: Mapping[str, str]) -> None:
    """Prints names and what there is to say of them, as wide as the terminal."""
    indent = max(map(len, lines), default=0) + 2
    width = max(indent + 40, shutil.get_terminal_size((120, 0)).columns)
    for name, text in lines.items():
        lead = f"{name:{indent}}"
        print(textwrap.fill(text, width, initial_indent=lead, subsequent_indent=indent * " "))
