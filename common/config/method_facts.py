"""What planning needs to know of a method, without importing its module, which imports PyTorch.

It is read from the class once and remembered under a digest of the code that it can depend on.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from functools import cache
from inspect import getattr_static
from pathlib import Path

import methods
from common import compiler
from common.config.memory import recall, remember
from common.config.method_class import FIRST, check_class
from common.config.method_code import code_digest
from common.config.options import Option, options_of
from common.errors import UserError
from common.files import digest

COMMON = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method from its class.

    Attributes:
        module: The module of `methods/`.
        trained_as: The entry whose trained model it reuses, if it trains none.
        options: Its options.
        grid: Where its logits are, unless an option says so.
        skips: Whether its class may say that it is not to be run somewhere.
        acts_inside: Whether it does anything inside the network.
        acts_after: Whether it does anything after the network, with a model that another method trained.
    """

    module: str
    trained_as: str | None
    options: tuple[Option, ...]
    grid: int | str = 1
    skips: bool = False
    acts_inside: bool = False
    acts_after: bool = False

    @classmethod
    def of(cls, module: str) -> MethodFacts:
        """Imports the module and looks at its class.

        Raises:
            Exception: Whatever importing it raises.
        """
        with compiler.put_off():
            kind = methods.load(module)
        check_class(kind)
        skips, structures, refines = (
            getattr_static(kind, hook) is not getattr_static(methods.Method, hook)
            for hook in ("skip", "structure", "refine")
        )
        return cls(
            module,
            kind.trained_as,
            options_of(kind, skip=len(FIRST)),
            kind.grid,
            skips,
            acts_inside=structures,
            acts_after=refines or kind.refines != methods.Method.refines,
        )


@cache
def method_facts(module: str) -> MethodFacts:
    """What is known of a method; its module is imported only if this is not remembered.

    Args:
        module: The module of `methods/`.

    Raises:
        UserError: It cannot be loaded.
    """
    try:
        name = f"methods/{module}-{facts_digest(module)}"
        facts = recall(name, MethodFacts)
        if facts is None or facts.module != module:
            facts = MethodFacts.of(module)
            remember(name, facts)
    except (Exception, SystemExit) as error:  # a user's own file may fail in any way
        raise cannot_be_loaded(module, error) from error
    return facts


def cannot_be_loaded(module: str, error: BaseException) -> UserError:
    """What to say of a method that cannot be loaded, or whose class is not as it must be.

    Args:
        module: The module of `methods/`.
        error: What was raised.
    """
    if isinstance(error, ValueError | LookupError) and not isinstance(error, KeyError | IndexError):
        return UserError(f"methods/{module}.py: {error}")
    reason = f"{type(error).__name__}: {error}"
    return UserError(f"methods/{module}.py cannot be loaded: {reason}")


def facts_digest(module: str) -> str:
    """The digest of the code that options, defaults and checks of a method can depend on.

    Args:
        module: The module of `methods/`.

    Raises:
        Exception: Its code cannot be read or parsed.
    """
    return digest([code_digest(module), *_shared_digests()], length=20)


@cache
def _shared_digests() -> list[str]:
    """Python's version, and the digests of the code that all methods share and of that which reads them."""
    files = [
        *sorted((COMMON / "kernels").glob("*.py")),
        COMMON / "labels.py",
        COMMON / "networks" / "sights.py",
    ]
    files += [COMMON / "config" / f"{name}.py" for name in ("method_class", "method_facts", "options")]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return [platform.python_version(), code_digest("base"), code_digest("__init__"), *contents]
