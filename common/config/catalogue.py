"""What there is to choose from, a line each: read from the files themselves, without importing them."""

from __future__ import annotations

import ast
import csv
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common import datasets
from common.config import entries
from common.config.entries import Config
from common.config.method_facts import method_facts
from common.config.options import Option, options_of
from common.config.schema import unknown
from common.errors import UserError
from common.installation import ROOT, source

PRESETS = ROOT / "workflow/presets"
TABLE = ROOT / "results/reference/models.csv"
"""The models that are looked at in tests, with their numbers of parameters."""


def method_lines(config: Config) -> dict[str, str]:
    """Every name that `methods` may list: what its module says of itself, or what its entry makes of one."""
    lines = {}
    for name in entries.method_names(config):
        settings = {**config["method_options"].get(name, {})}
        module = settings.pop("module", name)
        if "predictions" in settings:
            lines[name] = f"predictions that are read from {settings['predictions']}"
        elif ensemble := settings.get("ensemble"):
            lines[name] = f"the mean over {ensemble['members']} models of {ensemble['of']}"
        elif name == module:
            lines[name] = first_line(ROOT / "methods" / f"{module}.py")
        else:
            lines[name] = f"{module}: {_flow(settings)}"
    return lines


def dataset_lines(config: Config) -> dict[str, str]:
    """Every name that `datasets` may list: what its module says of itself, or what its entry makes of one."""
    lines = {}
    for name in entries.dataset_names(config):
        settings = {**config["dataset_options"].get(name, {})}
        module = settings.pop("module", name)
        about = first_line(ROOT / "common/datasets" / f"{module}.py")
        lines[name] = about if name == module else f"{module}: {_flow(settings)}"
    return lines


def model_lines() -> dict[str, str]:
    """Models that are known to be built as their origins are; others are made of the same parts."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            f"{row['model']}": f"{int(row['parameters']) / 1e6:.1f} million parameters at output stride "
            f"{row['output_stride']}, 21 classes"
            for row in csv.DictReader(file)
        }


def preset_lines() -> dict[str, str]:
    """The presets: how each file begins."""
    return {path.stem: _comment(path) for path in sorted(PRESETS.glob("*.yaml"))}


def preset(name: str, place: str = "--preset") -> Path:
    """The file of a preset.

    Args:
        name: Its name.
        place: Where it was named, for the message.

    Raises:
        UserError: There is none of that name.
    """
    names = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if name not in names:
        raise UserError(unknown(place, name, "preset", names))
    return PRESETS / f"{name}.yaml"


def option_lines(config: Config, name: str) -> dict[str, str]:
    """The options of a method or a dataset: value or default, and what its file says of each.

    Raises:
        UserError: There is neither of that name, or its file cannot be loaded.
    """
    if name in entries.method_names(config):
        module = config["method_options"].get(name, {}).get("module", name)
        facts = method_facts(module)
        about = arguments(ROOT / "methods" / f"{module}.py")
        return _options(facts.options, config["method_options"].get(name, {}), about)
    if name in entries.dataset_names(config):
        module = entries.dataset_module(config, name)
        about = arguments(ROOT / "common/datasets" / f"{module}.py")
        return _options(options_of(datasets.load(module)), config["dataset_options"].get(name, {}), about)
    known = [*entries.method_names(config), *entries.dataset_names(config)]
    raise UserError(unknown("list options", name, "method or dataset", known))


def first_line(path: Path) -> str:
    """What the docstring of a module begins with, as far as its first full stop or paragraph."""
    try:
        text = ast.get_docstring(ast.parse(source(path))) or "it has no description"
    except (OSError, ValueError, SyntaxError) as error:
        return f"cannot be read: {error}"
    return " ".join(text.partition("\n\n")[0].split())


def arguments(path: Path) -> dict[str, str]:
    """What the `__init__`s of a module say of their arguments."""
    texts: dict[str, str] = {}
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            _, _, section = inspect.cleandoc(ast.get_docstring(node) or "").partition("Args:\n")
            for name, text in re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE):
                texts.setdefault(name, " ".join(text.split()))
    return texts


def _options(
    options: Iterable[Option], values: Mapping[str, Any], about: Mapping[str, str]
) -> dict[str, str]:
    lines = {}
    for option in options:
        default = "must be given" if option.required else json.dumps(option.default, ensure_ascii=False)
        shown = json.dumps(values[option.name], ensure_ascii=False) if option.name in values else default
        lines[option.name] = f"{shown}: {about.get(option.name, option.type.text)}"
    return lines


def _comment(path: Path) -> str:
    """The first sentence of the comment that a file begins with."""
    text = path.read_text(encoding="utf-8").partition("\n#\n")[0]
    return " ".join(line.removeprefix("#").strip() for line in text.splitlines())


def _flow(settings: Mapping[str, Any]) -> str:
    """Settings in one line; of those per dataset, for which ones there are any."""
    shown = [
        f"{key} {json.dumps(value, ensure_ascii=False)}"
        for key, value in settings.items()
        if key != "per_dataset"
    ]
    if per_dataset := settings.get("per_dataset"):
        shown.append(f"settings of its own for {', '.join(per_dataset)}")
    return ", ".join(shown) or "as it is"
