"""The schema of the configuration: defaults, and a sentence for what does not fit it."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match

from common.errors import UserError

SCHEMA = Path(__file__).resolve().parents[2] / "workflow/schemas/config.schema.yaml"


@cache
def schema() -> dict[str, Any]:
    """The schema of a whole configuration; its `$defs` are those of the sections."""
    quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in Python alone it takes a fifth of a second
    return yaml.load(SCHEMA.read_text(encoding="utf-8"), Loader=quick)


def validate(content: Any, schema: dict[str, Any], filling: bool = False, place: Sequence[str] = ()) -> None:
    """Checks content against a schema.

    Args:
        content: What is checked, and changed if defaults are filled in.
        schema: The schema.
        filling: Whether defaults are filled in where nothing is set.
        place: The keys that lead to the content, for messages.

    Raises:
        UserError: It does not fit; the sentence names the key and the choices.
    """
    validator = (_Filling if filling else Draft202012Validator)(schema)
    error = best_match(validator.iter_errors(content))
    if error is not None:
        raise UserError(_sentence(error, place))


def plain_numbers(content: Any, place: str = "") -> Any:
    """A copy in which texts like 1e-3 are numbers (YAML 1.1 only knows 1.0e-3) and 2.0 is 2.

    Args:
        content: What was read.
        place: Where it stands, for messages.

    Raises:
        UserError: A number is not finite.
    """
    inner = f"{place}." if place else ""
    if isinstance(content, Mapping):
        return {key: plain_numbers(value, f"{inner}{key}") for key, value in content.items()}
    if isinstance(content, list):
        return [plain_numbers(value, f"{inner}{i}") for i, value in enumerate(content)]
    if isinstance(content, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", content):
        content = float(content)
    if isinstance(content, float):
        if not math.isfinite(content):
            raise UserError(f"{place}: {content} is not a finite number")
        return int(content) if content.is_integer() else content
    return content


def unknown(place: str, name: Any, kind: str, choices: Iterable[str]) -> str:
    """The sentence about a name that there is not.

    Args:
        place: Where it stands in the configuration.
        name: The name.
        kind: What it is the name of.
        choices: All names that there are.
    """
    names = list(choices)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{place}: unknown {kind} {name!r}{hint}; choose from {', '.join(names)}"


def _fill_defaults(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """The check of a mapping's keys, which first fills in what has a default and is not set."""
    if isinstance(instance, dict):
        for name, subschema in properties.items():
            if "default" in subschema:
                instance.setdefault(name, copy.deepcopy(subschema["default"]))
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, instance, schema)


_Filling = validators.extend(Draft202012Validator, {"properties": _fill_defaults})


def _sentence(error: ValidationError, place: Sequence[str]) -> str:
    """What is wrong, in the words of this project."""
    where = ".".join(map(str, [*place, *error.absolute_path])) or "the configuration"
    if error.validator == "additionalProperties":
        keys = sorted(error.schema["properties"])
        surplus = sorted(set(error.instance) - set(keys))[0]
        return unknown(where, surplus, "key", keys)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where}: {missing} is missing: give it a list of names"
    if error.validator == "enum":
        return f"{where}: {error.instance!r} is none of {', '.join(map(str, error.validator_value))}"
    if error.validator == "type":
        wanted = error.validator_value
        wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
        return f"{where}: {error.instance!r} is not of type {wanted}"
    return f"{where}: {error.message}"
