"""Texts of YAML and JSON as plain data; what two readers would take for different things is refused.

Booleans, null and numbers are those of YAML 1.2: `yes`, `010`, `12:30` and `2023-01-01` are texts, where
YAML 1.1 reads true, 8, 750 and a date. What stands in quotes is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.errors import UserError

MOST_CHARACTERS = 5_000_000
MOST_VALUES = 200_000
"""Values that a text may stand for, those that aliases repeat counted each time."""
DEEPEST = 50
"""Mappings and lists in each other."""

_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE = f"{_TAG}str", f"{_TAG}merge"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*|[1-9][0-9]{0,2}(_[0-9]{3})+)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)
"""What a text without quotes may be: the tag, all of the text, and its first characters."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain data: texts, numbers, booleans, null, lists and mappings, and nothing else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    yaml_constructors = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
    }


for _kind, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(
        _TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), [*_first, *([""] if _kind == "null" else [])]
    )


def parse(text: str, place: str) -> Any:
    """The data that a text of YAML or JSON stands for; None if there is nothing in it.

    Args:
        text: The text.
        place: Where it stands, for messages, such as the file.

    Raises:
        UserError: It is neither, has a key twice or one that is no text, contains itself, or is too large.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{place} is no configuration: it has more than {MOST_CHARACTERS} characters")
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition)
        _check_depth(content, place)
        return content
    except ValueError:
        pass  # it is YAML, or has a key twice, whose lines are found below
    except RecursionError:
        raise _too_deep(place) from None
    try:
        return _parse_yaml(text, place)
    except yaml.MarkedYAMLError as error:
        where = _where(text, error.problem_mark.line) if error.problem_mark else ""
        context = f" {error.context}:" if error.context else ""
        raise UserError(f"{place} is no valid YAML:{context} {_line(error.problem)}{where}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{place} is no valid YAML: {_line(error)}") from None


def _where(text: str, index: int) -> str:
    """The line at which reading YAML ended, and what is wrong with most such lines."""
    line = [*text.splitlines(), ""][index]
    where = f", line {index + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"{where}: indent it by spaces, not by tabs"
    if index and line[:1] == " ":
        return f"{where}; is it indented as its neighbours are?"
    return where


def _parse_yaml(text: str, place: str) -> Any:
    """The data that a text of YAML stands for; raises PyYAML's errors too."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # to compose what is deeper would end the process
            raise _too_deep(place)
        if count > 2 * MOST_VALUES:
            raise _too_much(place)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(place).size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Check:
    """The check of a tree of nodes, in which aliases are one node in several places."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.sizes: dict[Node, int | None] = {}

    def size(self, node: Node) -> int:
        """How many values a node stands for.

        Raises:
            UserError: It contains itself, too much, or a mapping with keys that are wrong.
        """
        if node in self.sizes:
            size = self.sizes[node]
            if size is None:
                raise UserError(f"{self.place}, {_at(node)}: an alias stands for what it is part of")
            return size
        self.sizes[node] = None
        inner: Sequence[Node] = ()
        if isinstance(node, MappingNode):
            self._check_keys(node)
            inner = [value for _, value in node.value]
        elif isinstance(node, SequenceNode):
            inner = node.value
        size = 1 + sum(map(self.size, inner))
        if size > MOST_VALUES:
            raise _too_much(f"{self.place}, {_at(node)}")
        self.sizes[node] = size
        return size

    def _check_keys(self, node: MappingNode) -> None:
        lines: dict[str, Node] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag not in (_TEXT, _MERGE):
                shown = f"the key {key.value}" if isinstance(key, ScalarNode) else "a key"
                raise UserError(f"{self.place}, {_at(key)}: {shown} is no text: put it in quotes")
            if key.value in lines:
                first, second = (_number(other) for other in (lines[key.value], key))
                where = f"lines {first} and {second}" if first != second else f"line {first}"
                raise UserError(
                    f"{self.place}: the key {key.value} is given twice, in {where}: only one of them can "
                    "count, so put both into one"
                )
            lines[key.value] = key


def _check_depth(content: Any, place: str, depth: int = 0) -> None:
    """Raises a UserError if there are too many mappings and lists in each other."""
    if depth > DEEPEST:
        raise _too_deep(place)
    if isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            _check_depth(inner, place, depth + 1)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON; a ValueError if it has a key twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError
    return content


def _number(node: Node) -> int:
    """The number of the line in which a node begins."""
    return node.start_mark.line + 1


def _at(node: Node) -> str:
    return f"line {_number(node)}"


def _too_deep(place: str) -> UserError:
    return UserError(
        f"{place} is no configuration: it has more than {DEEPEST} lists and mappings in each other"
    )


def _too_much(place: str) -> UserError:
    return UserError(
        f"{place}: what stands there is more than {MOST_VALUES} values, aliases and all: give fewer"
    )


def _line(message: object) -> str:
    """A message in one line."""
    return " ".join(str(message).split())
