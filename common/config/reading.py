"""A configuration from its files: read, merged, completed with defaults, and refused if anything is wrong."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import checks, entry_checks, names, tuning_checks
from common.config.effects import without_effect
from common.config.entries import Config, dataset
from common.config.parsing import parse
from common.config.schema import plain_numbers, schema, validate
from common.errors import UserError
from common.installation import ROOT
from common.networks import architectures

BASE = Path("config.yaml") if Path("config.yaml").exists() else ROOT / "config.yaml"
"""What all other configuration files are laid over: that of the working directory, or else the code's own."""

COMPLETE = "complete"
"""The key that says of a configuration that it has all settings and stands alone."""


def load(files: Sequence[Path], over: Mapping[str, Any] | None = None, base: Path | None = BASE) -> Config:
    """Reads configuration files, later ones over earlier ones and all over `config.yaml`, and completes them.

    Mappings are merged and lists replaced, as Snakemake does with several `--configfile`s. A complete
    configuration, as the workflow leaves it in `results/configs/`, stands alone: `config.yaml` is not read.

    Args:
        files: The files, in order.
        over: What is laid over them.
        base: What they are laid over, if anything.

    Raises:
        UserError: A file cannot be read or something in it is wrong.
    """
    contents = [read(file) for file in files if not _same(file, base)]
    if any(content.get(COMPLETE) is True for content in contents):
        if len(contents) > 1:
            raise UserError(f"{files[0]}: a complete configuration stands alone: give it as the only file")
    elif base:
        contents.insert(0, read(base))
    merged: Config = {}
    layers = [*contents, *([over] if over else [])]
    for content in layers:
        merged = merge(merged, content)
    config = complete(merged)
    if not merged.get(COMPLETE):
        for sentence in without_effect(config, layers):
            print(f"structseg: {sentence}", file=sys.stderr)
    return config


def _same(file: Path, base: Path | None) -> bool:
    """Whether a file is the one that all are laid over."""
    return base is not None and file.exists() and base.exists() and file.samefile(base)


def read(file: Path) -> Config:
    """The content of one file.

    Args:
        file: YAML or JSON.

    Raises:
        UserError: It cannot be read, or is no mapping.
    """
    try:
        if file.exists() and not file.is_file():  # Snakemake has emptied a pipe before
            raise UserError(f"{file} is no file that can be read twice: write the configuration into one")
        content = parse(file.read_text(encoding="utf-8-sig"), str(file))
    except UnicodeDecodeError:
        raise UserError(f"{file} cannot be read: it is not in UTF-8; save it in that encoding") from None
    except (OSError, ValueError) as error:
        preset = ROOT / f"workflow/presets/{file}.yaml"
        if isinstance(error, FileNotFoundError) and preset.is_file():
            raise UserError(f"{file} is no file but a preset: name its file, {preset}") from None
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{file} cannot be read: there is no such file") from None
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{file} must be a mapping of keys to settings")
    return content or {}


def merge(base: Config, over: Mapping[str, Any]) -> Config:
    """`over` laid on `base`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def from_command_line(arguments: Sequence[str]) -> Config:
    """Settings of Snakemake's `--config`, such as `methods=["ce","rmi"]`, read as they would be in a file.

    What is no YAML and begins like none is a text, as Snakemake has it.

    Args:
        arguments: Keys and values, as they were given.

    Raises:
        UserError: A key is given twice, or a value is wrong in itself.
    """
    settings: Config = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key in settings:
            raise UserError(
                f"--config: {key} is given twice: only one of them can count, so put both into one"
            )
        try:
            settings[key] = parse(text, f"--config {key}")
        except UserError:
            if text.lstrip()[:1] in ("[", "{", '"', "'"):
                raise
            settings[key] = text
    return settings


def complete(config: Config) -> Config:
    """Checks a configuration and fills in all defaults; a complete one stays as it is.

    Returns:
        Another configuration; the argument is left as it was.

    Raises:
        UserError: Something is wrong; the sentence names the entry and the valid choices.
    """
    config = plain_numbers(config)
    models, options = config.get("models"), config.setdefault("model_options", {})
    if isinstance(models, list) and isinstance(options, dict):
        for model in models:
            if isinstance(model, str):
                options.setdefault(model, {})
    validate(config, schema(), filling=True)
    names.check_names(config)
    checks.check_sizes(config)
    for model, options in config["model_options"].items():
        config["model_options"][model] = architectures.settled(model, options)
    config = plain_numbers(config)  # the defaults too
    for name in config["datasets"]:
        checks.check_splits(config, name)
    for section in ("training", "evaluation"):
        checks.check_overrides(config, section)
    checks.check_training(config)
    for name in config["dataset_options"]:
        names.check_dataset(name, dataset(config, name))
    entry_checks.check_methods(config)
    tuning_checks.check_tuning(config)
    checks.check_downloads(config)
    return config | {COMPLETE: True}
