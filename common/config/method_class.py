"""What the class of a method must be like before it is built: its attributes, its hooks, its `__init__`."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, get_args

from common.networks.sights import LOSSES, SIGHTS, asked_for, prepares, unknown_sights

if TYPE_CHECKING:
    from methods.base import Grid, Method

HOOKS = {
    "structure": ("images", "features", "unary"),
    "loss": ("logits", "labels"),
    "refine": ("images", "probabilities"),
    "auxiliary_loss": ("logits", "labels"),
    "prepare": ("labels",),
    "probabilities": ("logits",),
    "diagnostics": (),
    "skip": ("setting",),
}
"""The hooks and what they get; losses may ask for more (`networks.sights`)."""

FIRST = ["num_classes", "feature_channels"]
"""The first parameters of `__init__`; its options follow."""


def check_class(kind: type[Method]) -> None:
    """Checks that what a class defines is what the stages look for.

    Args:
        kind: The class.

    Raises:
        ValueError: An attribute has another type, a hook takes other arguments, or something has nearly the
            name of a hook and would never be called.
    """
    if not (kind.trained_as is None or (isinstance(kind.trained_as, str) and kind.trained_as)):
        raise ValueError(f"trained_as must be the name of an entry or None, not {kind.trained_as!r}")
    check_refines(kind.refines)
    check_grid(kind.grid)
    parameters = list(inspect.signature(kind).parameters)
    if parameters[:2] != FIRST:
        raise ValueError(
            f"__init__ must begin with (self, {', '.join(FIRST)}), and begins with "
            f"(self, {', '.join(parameters[:2])})"
        )
    for hook, arguments in HOOKS.items():
        _check_hook(kind, hook, arguments)
    _check_sights(kind)
    _check_names(kind)


def check_refines(refines: object) -> None:
    """Checks that a method refines one of the probabilities that there are.

    Raises:
        ValueError: It does not.
    """
    from methods.base import Refinable  # imports PyTorch

    kinds = get_args(Refinable)
    if refines not in kinds:
        raise ValueError(f"refines must be {' or '.join(kinds)}, not {refines!r}")


def check_grid(grid: object) -> None:
    """Checks that a method declares a grid that can be.

    Raises:
        ValueError: It does not.
    """
    if grid != "full" and (type(grid) is not int or grid < 1):
        raise ValueError(f"grid must be 1, a larger whole number, or full, not {grid!r}")


def check_built(built: Method, grid: Grid) -> None:
    """Checks what `__init__` has made.

    Args:
        built: The method.
        grid: What it has declared before.

    Raises:
        ValueError: It was not finished, or has made something that the stages cannot work with.
    """
    if "_modules" not in vars(built) or not hasattr(built, "num_classes"):
        raise ValueError(f"__init__ must call super().__init__({', '.join(FIRST)})")
    check_refines(built.refines)
    if built.grid != grid:
        raise ValueError(
            f"grid is {built.grid!r} once it is built, and was {grid!r}: it is an attribute of the class, or "
            "an option of that name, which __init__ keeps as self.grid"
        )
    for name in ("progress", "alignment"):
        try:
            setattr(built, name, getattr(built, name))
        except Exception:  # a property without a setter, a slot
            raise ValueError(f"{name} is set by the stages: leave it an attribute") from None


def _check_sights(kind: type[Method]) -> None:
    """Checks that losses ask for what there is, and that what is prepared is asked for.

    Raises:
        ValueError: They do not, or it is not.
    """
    for hook in LOSSES:
        for name in unknown_sights(kind, hook):
            raise ValueError(
                f"{hook} asks for {name}, which there is not: beside {' and '.join(HOOKS[hook])} it may ask "
                f"for {', '.join(SIGHTS)}"
            )
    asking = [hook for hook in LOSSES if "prepared" in asked_for(kind, hook)]
    if asking and not prepares(kind):
        raise ValueError(f"{asking[0]} asks for prepared: define prepare(self, labels), which makes it")
    if prepares(kind) and not asking:
        raise ValueError("prepare makes something that no loss asks for: let loss have a parameter prepared")


def _check_hook(kind: type[Method], hook: str, arguments: tuple[str, ...]) -> None:
    """Checks that a hook can be called with what it gets."""
    wanted = f"def {hook}({', '.join(('self', *arguments))})"
    function = inspect.getattr_static(kind, hook)
    static = isinstance(function, staticmethod | classmethod)
    if hook == "skip" and not static:
        raise ValueError(
            "skip is asked before the method is built: write @classmethod above def skip(cls, setting)"
        )
    try:
        if isinstance(function, type):
            raise TypeError
        names = [*asked_for(kind, hook), *unknown_sights(kind, hook)] if hook in LOSSES else []
        inspect.signature(getattr(kind, hook)).bind(
            *(arguments if static else ("self", *arguments)), **dict.fromkeys(names)
        )
    except (TypeError, ValueError):
        raise ValueError(f"{hook} must be callable as a method, {wanted}") from None


def _check_names(kind: type[Method]) -> None:
    """Checks that nothing has nearly the name of a hook: it would never be called."""
    from methods.base import Method  # imports PyTorch

    known = [*HOOKS, "trained_as", "refines", "grid", "enlarged"]
    own = {name for base in kind.__mro__[: kind.__mro__.index(Method)] for name in vars(base)}
    for name in sorted(own - {*dir(Method)} | own & {"forward"}):
        similar = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name.startswith("_") or not (similar or name == "forward"):
            continue
        meant = f"did you mean {similar[0]}?" if similar else f"the hooks are {', '.join(HOOKS)}"
        raise ValueError(f"{name} is no hook and would never be called: {meant} (_{name} is left alone)")
