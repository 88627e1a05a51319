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

LONGEST = 80
MOST_CHOICES = 60
"""Characters of a value, and names, that a message shows at most."""

CONSTANTS = {None: "null", True: "true", False: "false"}
KINDS = {
    "null": "null",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "array": "a list",
    "object": "a mapping of keys to settings",
}
"""The values and types of JSON, in words."""

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
    validator = (_Filling if filling else _Checking)(schema)
    error = best_match(validator.iter_errors(content))
    if error is not None:
        while error.parent is not None:  # of settings that may be one of several things, all are to be named
            error = error.parent
        raise UserError(_sentence(error, place))


def plain_numbers(content: Any, place: str = "") -> Any:
    """A copy in which 2.0 is 2: they are one setting and must have one digest.

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
    if isinstance(content, float):
        if not math.isfinite(content):
            raise UserError(f"{place}: {content} is not a finite number")
        return int(content) if content.is_integer() and abs(content) < 2**53 else content
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
    close = difflib.get_close_matches(str(name)[:LONGEST], names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    more = f" and {len(names) - MOST_CHOICES} others" if len(names) > MOST_CHOICES else ""
    listed = ", ".join(names[:MOST_CHOICES]) + more
    return f"{place}: unknown {kind} {shown(name)}{hint}; choose from {listed}"


def shown(value: Any) -> str:
    """A value as messages show it: as it would stand in a file, and not longer than a line."""
    text = CONSTANTS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]}…"


def _fill_defaults(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """The check of a mapping's keys, which first fills in what has a default and is not set."""
    if isinstance(instance, dict):
        for name, subschema in properties.items():
            if "default" in subschema:
                instance.setdefault(name, copy.deepcopy(subschema["default"]))
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, instance, schema)


def _whole(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """The check of a text against a pattern, which must fit all of it: Python's `$` leaves a newline out."""
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield ValidationError("it does not fit")


_Checking = validators.extend(Draft202012Validator, {"pattern": _whole})
_Filling = validators.extend(_Checking, {"properties": _fill_defaults})


def _sentence(error: ValidationError, place: Sequence[str]) -> str:
    """What is wrong, in the words of this project."""
    where = ".".join(shown(part).strip("'") for part in [*place, *error.absolute_path]) or "the configuration"
    instance, limit = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        keys = sorted(error.schema["properties"])
        surplus = sorted(set(instance) - set(keys))[0]
        return unknown(where, surplus, "key", keys)
    if error.validator == "required":
        missing = next(key for key in limit if key not in instance)
        remedy = "" if place or error.absolute_path else ": give it a list of names"
        return f"{where}: {missing} is missing{remedy}"
    if error.validator == "uniqueItems":
        twice = next(item for place, item in enumerate(instance) if item in instance[:place])
        return f"{where}: {shown(twice)} stands twice in the list: leave one out"
    if error.validator in ("maxItems", "maxProperties") and "title" not in error.schema:
        return f"{where}: {len(instance)} are too many: give at most {limit}"
    quotes = isinstance(instance, int | float) and error.schema.get("type") == "string"
    hint = ": put it in quotes" if quotes else ""
    return f"{where}: {shown(instance)} must be {_allowed(error.schema)}{hint}"


def _allowed(part: Mapping[str, Any]) -> str:
    """What a part of the schema allows, in words: its title, or what its keys say."""
    if "$ref" in part:
        return _allowed(schema()["$defs"][part["$ref"].rpartition("/")[2]])
    if "title" in part:
        return part["title"]
    if "oneOf" in part:
        return _either([_allowed(inner) for inner in part["oneOf"]])
    if "enum" in part or "const" in part:
        values = part.get("enum", [part.get("const")])
        return _either([value if isinstance(value, str) else shown(value) for value in values])
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return _either([KINDS[kind] + _bounds(kind, part) for kind in kinds])


def _either(words: Sequence[str]) -> str:
    """Words with "or" before the last."""
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _bounds(kind: str, part: Mapping[str, Any]) -> str:
    """The bounds of a type, in words that follow its name."""
    if kind == "array":
        low, high = part.get("minItems"), part.get("maxItems")
        count = f"{low}" if low == high else f"at least {low}" if low else None
        items = f", each {_allowed(part['items'])}" if "items" in part else ""
        return (f" of {count}" if count else "") + items
    if kind == "string":
        return " that is not empty" * bool(part.get("minLength"))
    if kind not in ("integer", "number"):
        return ""
    if "exclusiveMinimum" in part:
        return f" above {part['exclusiveMinimum']}, up to {part['maximum']}"
    return (
        f" from {part['minimum']} to {part['maximum']}"
        if "maximum" in part
        else f" of at least {part['minimum']}"
    )
