"""PyTorch's compiler, torch._dynamo, which takes seconds to import, and which most jobs never call.

torchvision imports it for one function, and every optimiser and operator of ours in passing, to say of
themselves that they are not to be compiled. Where nothing is compiled, functions that do nothing will do.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """A block in which `import torch._dynamo` costs nothing, unless it has been imported before.

    What is found instead has what is called in passing; the compiler is imported as soon as anything else of
    it is asked for.
    """
    if NAME in sys.modules:
        yield
        return
    stand_ins = _StandIns()
    try:
        yield
    finally:
        stand_ins.withdraw()


class _StandIn(ModuleType):
    """Has functions of a module, and asks the module itself for all others."""

    def __init__(self, name: str, withdraw: Callable[[], None], **functions: Callable[..., Any]) -> None:
        super().__init__(name)
        vars(self).update(functions)
        self._withdraw = withdraw

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as of who looks through all modules
            raise AttributeError(name)
        self._withdraw()
        return getattr(importlib.import_module(self.__name__), name)


class _StandIns(MetaPathFinder, Loader):
    """What stands for the compiler and is found in its place, until it is withdrawn.

    A module of the compiler that has no stand-in is imported with all of it.
    """

    def __init__(self) -> None:
        utils = f"{NAME}.utils"
        self.modules: dict[str, ModuleType] = {
            NAME: _StandIn(NAME, self.withdraw, **_FUNCTIONS),
            utils: _StandIn(utils, self.withdraw, is_compile_supported=_is_compile_supported),
        }
        vars(self.modules[NAME])["__path__"] = []  # it is a package
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, self)

    def withdraw(self) -> None:
        """Has the compiler itself be imported from now on."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name, module in self.modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        torch = sys.modules.get("torch")
        if torch and vars(torch).get("_dynamo") is self.modules[NAME]:
            del torch._dynamo

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if not name.startswith(f"{NAME}."):
            return None
        self.withdraw()
        self.spec = importlib.import_module(name).__spec__
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # it was executed, and found otherwise


def _as_it_is(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """What stands for `disable`: the function itself, which nothing compiles."""
    return function


def _nothing(*_: Any, **__: Any) -> None:
    """What stands for `graph_break`."""


def _is_compile_supported(device_type: Any) -> bool:
    """What stands for the function of this name, and asks it."""
    return importlib.import_module(f"{NAME}.utils").is_compile_supported(device_type)


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for `assume_constant_result`, and does what it does."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "disable": _as_it_is,
    "graph_break": _nothing,
    "assume_constant_result": _constant,
}
"""What is called in passing, and what stands for it."""
