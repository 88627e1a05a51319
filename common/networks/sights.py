"""What a loss looks at beside logits and labels: those of `SIGHTS` that it has parameters for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from methods.base import Method

LOSSES = ("loss", "auxiliary_loss")
SIGHTS = ("images", "features", "unary", "prepared")


def asked_for(kind: type[Method], hook: str) -> tuple[str, ...]:
    """The sights that a loss gets.

    An `auxiliary_loss` that takes all keywords, as that of `Method` does, gets what `loss` asks for.

    Args:
        kind: The class of the method.
        hook: One of `LOSSES`.
    """
    # mypy takes the hash of instances for that of their class
    return _asked_for(kind, hook, kind.loss, getattr(kind, hook))  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _asked_for(kind: type[Method], hook: str, *functions: Callable[..., Tensor]) -> tuple[str, ...]:
    """As `asked_for`, which is asked in every step; `functions` are the losses of the class as it is now."""
    parameters = _further(kind, hook)
    if hook != "loss" and any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return asked_for(kind, "loss")
    names = [parameter.name for parameter in parameters]
    return tuple(name for name in SIGHTS if name in names)


def unknown_sights(kind: type[Method], hook: str) -> list[str]:
    """What a loss has parameters for that it cannot get: they have no default, or nearly the name of a sight.

    Args:
        kind: The class of the method.
        hook: One of `LOSSES`.
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter.name
        for parameter in _further(kind, hook)
        if parameter.kind not in variadic and parameter.name not in SIGHTS
        if parameter.default is parameter.empty
        or difflib.get_close_matches(parameter.name, SIGHTS, cutoff=0.8)
    ]


def prepares(kind: type[Method]) -> bool:
    """Whether a method prepares something of the labels in the processes that load images."""
    from methods.base import Method  # imports PyTorch

    return kind.prepare is not Method.prepare


def _further(kind: type[Method], hook: str) -> list[inspect.Parameter]:
    """The parameters of a loss after logits and labels."""
    static = isinstance(inspect.getattr_static(kind, hook), staticmethod | classmethod)
    return list(inspect.signature(getattr(kind, hook)).parameters.values())[2 if static else 3 :]
