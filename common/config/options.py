"""Options of methods and datasets: the keyword arguments of their classes, checked by name and type."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.config.schema import plain_numbers, shown, unknown
from common.errors import UserError

Kind = Literal["any", "literal", "union", "sequence", "int", "str", "bool", "float", "none"]
PLAIN_TYPES: dict[type, Kind] = {int: "int", str: "str", bool: "bool", float: "float", type(None): "none"}


@dataclass(frozen=True)
class OptionType:
    """Which values an option takes; it can be written to a file, which a Python annotation cannot.

    Attributes:
        kind: What it is; `any` is not checked.
        text: The annotation as messages show it.
        values: All values of a `literal`.
        parts: The types of a `union`, or the one type of the items of a `sequence`.
    """

    kind: Kind
    text: str = ""
    values: tuple[Any, ...] = ()
    parts: tuple[OptionType, ...] = ()

    @classmethod
    def of(cls, annotation: Any) -> OptionType:
        """The type that an annotation means; `any` for what is not known here."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        text = str(annotation) if origin else getattr(annotation, "__name__", str(annotation))
        text = text.replace("typing.", "").replace("collections.abc.", "")
        if origin is Literal:
            return cls("literal", text, values=arguments)
        if origin in (typing.Union, types.UnionType):
            return cls("union", text, parts=tuple(map(cls.of, arguments)))
        if isinstance(origin, type) and issubclass(origin, Sequence):
            return cls("sequence", text, parts=(cls.of(arguments[0] if arguments else Any),))
        for plain, kind in PLAIN_TYPES.items():
            if annotation is plain:
                return cls(kind, text)
        return cls("any", text)

    def accepts(self, value: Any) -> bool:
        """Whether a value of a configuration is of this type."""
        match self.kind:
            case "literal":
                return value in self.values
            case "union":
                return any(part.accepts(value) for part in self.parts)
            case "sequence":
                (items,) = self.parts
                return isinstance(value, list | tuple) and all(map(items.accepts, value))
            case "none":
                return value is None
            case "float":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "int" | "str" | "bool":
                return type(value).__name__ == self.kind
        return True


@dataclass(frozen=True)
class Option:
    """One option of a method or a dataset.

    Attributes:
        name: Its name.
        type: Which values it takes.
        required: Whether it has no default.
        default: Its default, with lists for tuples.
    """

    name: str
    type: OptionType
    required: bool
    default: Any = None


def options_of(kind: type, skip: int = 0) -> tuple[Option, ...]:
    """The options of a class: the named parameters of its `__init__`.

    Args:
        kind: The class.
        skip: How many parameters come before them.
    """
    try:
        signature = inspect.signature(kind, eval_str=True)
    except NameError:  # a type that is imported for type checkers only: take the texts
        signature = inspect.signature(kind)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(signature.parameters.values())[skip:]
    return tuple(_option(parameter) for parameter in parameters if parameter.kind not in variadic)


def _option(parameter: inspect.Parameter) -> Option:
    """The option that a parameter is.

    Raises:
        ValueError: Its default can stand in no configuration.
    """
    empty = inspect.Parameter.empty
    typed = parameter.annotation is not empty and not isinstance(parameter.annotation, str)
    required = parameter.default is empty
    default = None if required else _with_lists(parameter.default)
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"the default of the option {parameter.name} is {default!r}, which no configuration can have: "
            "use numbers, texts, true, false, None, and lists of them"
        ) from None
    untyped = bool if isinstance(default, bool) else Any  # a text such as no would count as true
    return Option(
        parameter.name, OptionType.of(parameter.annotation if typed else untyped), required, default
    )


def _with_lists(value: Any) -> Any:
    """A value with lists for tuples, as in a configuration."""
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _wrong_type(place: str, value: Any, wanted: str) -> str:
    """The sentence about an option that is of another type than is wanted."""
    values = value if isinstance(value, list) else [value]
    number = any(isinstance(item, int | float) for item in values)
    hint = ": put what is meant as a text in quotes" if number and "str" in wanted else ""
    return f"{place}: {shown(value)} is not of type {wanted}{hint}"


def complete_options(place: str, values: Mapping[str, Any], options: Sequence[Option]) -> dict[str, Any]:
    """The values of all options: those that are set, and the defaults of the others.

    Args:
        place: Where they stand in the configuration, for messages.
        values: What is set.
        options: All options that there are.

    Raises:
        UserError: A name is unknown, a value has the wrong type, or one without a default is missing.
    """
    known = {option.name: option for option in options}
    for name, value in values.items():
        if name not in known:
            if not known:
                raise UserError(f"{place}: unknown option {name!r}; there are none to choose")
            raise UserError(unknown(place, name, "option", known))
        if not known[name].type.accepts(value):
            raise UserError(_wrong_type(f"{place}.{name}", value, known[name].type.text))
    complete = {}
    for name, option in known.items():
        if option.required and name not in values:
            raise UserError(f"{place}: the option {name} must be given")
        complete[name] = _with_lists(values.get(name, option.default))
    return plain_numbers(complete, place)  # 2 and 2.0 are one setting and must have one digest
