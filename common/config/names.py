"""The rule for names: those of datasets, models, methods and splits are parts of paths and of tables."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.config.entries import Config
from common.config.schema import shown
from common.datasets.base import Dataset
from common.errors import UserError
from common.installation import ROOT

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LONGEST = 100
RESERVED = ("majority", "ceiling", "class")
"""Names that tables use for themselves: those of controls, and that of a column beside those of methods."""

CODE = (".git", "common", "cuda", "methods", "tests", "workflow")
"""Folders of the project that no results are written to."""


def check_names(config: Config) -> None:
    """Checks all names of a configuration, and the folder of its results.

    Args:
        config: The configuration, which fits the schema.

    Raises:
        UserError: A name cannot be one.
    """
    for place, name in _names(config):
        _check(place, name)
        if name in RESERVED:
            raise UserError(f"{place}: {name!r} is a name that the tables use for themselves: choose another")
    _check_folder("results", config["results"])


def check_dataset(name: str, dataset: Dataset) -> None:
    """Checks the names of the splits and classes of a dataset.

    Names of classes are shown, and are no part of a path: they may be anything that can be seen.

    Args:
        name: The name of the dataset.
        dataset: The dataset.

    Raises:
        UserError: A name cannot be one.
    """
    for split in dataset.splits:
        _check(f"dataset_options.{name}.splits", split)
    place = f"dataset_options.{name}.class_names"
    for class_name in dataset.class_names:
        if not class_name or len(class_name) > LONGEST or not _is_seen(class_name):
            raise UserError(
                f"{place}: {shown(class_name)} can be no name: it must have 1 to {LONGEST} characters, none "
                "of them invisible, and no blanks at its ends"
            )
    looks = [unicodedata.normalize("NFC", class_name) for class_name in dataset.class_names]
    if len({*looks}) < len(looks):
        raise UserError(f"{place}: two names look the same, with accents composed and apart: change one")


def _is_seen(text: str) -> bool:
    """Whether all of a text can be seen: no control characters, line ends, or blanks around it."""
    hidden = any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in text)
    return not hidden and text == text.strip()


def _check(place: str, name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"{place}: {shown(name)} can be no name: it must begin with a letter of A–Z or a digit, have "
            f"only those and . _ + - in it, and at most {LONGEST} characters"
        )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    """All names that are given to something, with their places."""
    for section in ("datasets", "models", "methods"):
        yield from ((section, name) for name in config[section])
    for section in ("dataset_options", "model_options", "method_options"):
        yield from ((section, name) for name in config[section])
    for section in ("training", "evaluation"):
        for kind in ("per_dataset", "per_model"):
            yield from ((f"{section}.{kind}", name) for name in config[section][kind])
    for entry, options in config["method_options"].items():
        yield from _names_of_entry(f"method_options.{entry}", options)
    yield "tables.baseline", config["tables"]["baseline"]
    yield from (("tuning.methods", name) for name in config["tuning"]["methods"])


def _names_of_entry(place: str, options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The names in an entry of `method_options`."""
    yield from ((f"{place}.per_dataset", name) for name in options.get("per_dataset", {}))
    yield from ((f"{place}.skip", name) for name in options.get("skip", {}))
    for key in ("trained_as", "start"):
        if key in options:
            yield f"{place}.{key}", options[key]
    if "ensemble" in options:
        yield f"{place}.ensemble.of", options["ensemble"]["of"]


def _check_folder(place: str, folder: str) -> None:
    """Checks the folder of the results, which is a part of the names of all jobs' files."""
    text = shown(folder)
    if not _is_seen(folder):
        raise UserError(
            f"{place}: {text} has blanks at its ends or characters that cannot be seen: leave them out"
        )
    if folder[:1] in ("-", "~") or {*folder} & {*"{}"} or "://" in folder:
        raise UserError(
            f"{place}: {text} begins with - or ~, has braces in it or is an address: write the path of a "
            "folder in full, or choose another"
        )
    if len(folder.encode()) > 1000 or any(len(part.encode()) > 255 for part in Path(folder).parts):
        raise UserError(f"{place}: {text} is too long for a path: choose another")
    path = Path(folder).resolve()
    with contextlib.suppress(OSError):  # the stage that writes there says what is wrong with it
        if path.exists() and not path.is_dir():
            raise UserError(f"{place}: {text} is a file: name a folder")
    if path == ROOT or any(path.is_relative_to(ROOT / part) for part in CODE):
        raise UserError(f"{place}: {text} is a folder of the code: choose another")
