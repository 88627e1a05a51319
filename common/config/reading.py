"""A configuration from its files: read, merged, completed with defaults, and refused if anything is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.config import checks
from common.config.entries import Config, dataset
from common.config.schema import plain_numbers, schema, validate
from common.errors import UserError
from common.networks import architectures

BASE = Path("config.yaml")
"""What all other configuration files are laid over."""

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
    contents = [_read(file) for file in files]
    if any(content.get(COMPLETE) for content in contents):
        if len(contents) > 1:
            raise UserError(f"{files[0]}: a complete configuration stands alone: give it as the only file")
    elif base:
        contents.insert(0, _read(base))
    merged: Config = {}
    for content in [*contents, over or {}]:
        merged = merge(merged, content)
    return complete(merged)


def _read(file: Path) -> Config:
    """The content of one file.

    Raises:
        UserError: It cannot be read, or is no mapping.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must be a mapping of keys to settings")
    return content


def merge(base: Config, over: Mapping[str, Any]) -> Config:
    """`over` laid on `base`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def from_command_line(content: Any) -> Any:
    """Settings of Snakemake's `--config`, with the types that they would have in a file.

    Snakemake leaves the scalars inside of mappings and lists as texts.
    """
    if isinstance(content, Mapping):
        return {key: from_command_line(value) for key, value in content.items()}
    if isinstance(content, list):
        return [from_command_line(value) for value in content]
    if isinstance(content, str) and content:
        try:
            value = yaml.safe_load(content)
        except yaml.YAMLError:
            return content
        return value if isinstance(value, int | float | None) else content
    return content


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
    for model, options in config["model_options"].items():
        config["model_options"][model] = architectures.settled(model, options)
    config = plain_numbers(config)  # the defaults too
    for name in config["datasets"]:
        checks.check_splits(config, name)
    for section in ("training", "evaluation"):
        checks.check_overrides(config, section)
    checks.check_training(config)
    for name in config["dataset_options"]:
        dataset(config, name)
    checks.check_methods(config)
    checks.check_tuning(config)
    checks.check_downloads(config)
    return config | {COMPLETE: True}
