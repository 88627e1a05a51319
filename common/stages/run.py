"""Verb `run`: runs the benchmark, which is Snakemake's work, from wherever the code lies."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml

from common.config import catalogue, reading
from common.errors import UserError
from common.installation import IMPORTED_FROM, PACKAGE, ROOT
from common.stages import entry

PROFILES = ROOT / "workflow/profiles"
WHERE = ("--cores", "-c", "--jobs", "-j", "--executor", "-e", "--profile")
"""Snakemake's options that say where and on how many cores jobs run."""


def command(preset: str | None, files: list[Path], others: list[str]) -> list[str]:
    """What is run: Snakemake with the benchmark's Snakefile.

    If nothing else is asked for, it uses all cores, and says when jobs have ended, not all about them.

    Args:
        preset: The name of a preset, or None.
        files: Configurations that are laid over it.
        others: Snakemake's own arguments.

    Raises:
        UserError: There is no such preset, or a file cannot be read.
    """
    _check_executor(others)
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    if not any(argument.partition("=")[0] in WHERE for argument in others):
        words += ["--cores", "all"]
    if not {"-n", "--dry-run", "--dryrun", "--quiet", "-q", "--verbose"} & {*others}:
        words += ["--quiet", "rules"]
    if preset:
        files = [catalogue.preset(preset), *files]
    for file in files:
        reading.read(file)  # what cannot be read is a sentence of ours, not Snakemake's traceback
    if files:
        words += ["--configfile", *map(str, files)]
    return [*words, *_with_profiles(others)]


def _with_profiles(arguments: list[str]) -> list[str]:
    """Arguments with the folder of a profile of ours for its name."""
    return [
        str(PROFILES / argument)
        if before in ("--profile", "--workflow-profile") and (PROFILES / argument).is_dir()
        else argument
        for before, argument in zip(["", *arguments], arguments)
    ]


def _check_executor(arguments: list[str]) -> None:
    """Refuses an executor whose package is not installed, of which Snakemake would say that it is no choice.

    Raises:
        UserError: It is not.
    """
    values = dict(itertools.pairwise(arguments)) | {
        name: value for name, _, value in (argument.partition("=") for argument in arguments) if value
    }
    executor = values.get("--executor", values.get("-e"))
    profile = Path(values.get("--profile", ""))
    for file in (profile / "config.yaml", PROFILES / profile / "config.yaml"):
        if executor is None and profile.name and file.is_file():
            executor = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("executor")
    package = f"snakemake-executor-plugin-{executor}"
    if executor in (None, "local", "dryrun", "touch") or find_spec(package.replace("-", "_")):
        return
    how = "pip install -r requirements-slurm.txt" if executor == "slurm" else f"pip install {package}"
    raise UserError(f"--executor: {executor} needs {package}, which is not installed: {how}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration; everything else is Snakemake's."""
    parser.epilog = "Everything else is for Snakemake, such as -n, --config, --profile slurm, or a target."
    parser.add_argument("--preset", metavar="NAME", help="one of `structseg list presets`")
    parser.add_argument(
        "--configfile",
        "--configfiles",
        dest="files",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="YAML or JSON, laid over config.yaml and the preset, later ones over earlier ones",
    )
    parser.set_defaults(others=[])


def run(arguments: entry.Arguments) -> None:
    """Becomes Snakemake."""
    words = command(arguments.preset, arguments.files, arguments.others)
    if not PACKAGE:  # found by it wherever this is called
        paths = [str(IMPORTED_FROM), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.execv(sys.executable, words)
