"""Which operators a computation calls that are not PyTorch's own."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

OWN = ("aten", "prim", "prims")
"""The namespaces of PyTorch's own operators."""


class CustomOperators(TorchDispatchMode):
    """Collects the operators that are called while it is entered and are not PyTorch's own.

    Attributes:
        names: Their names, as `<namespace>::<operator>`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes an operator and calls it."""
        if function.namespace not in OWN:
            self.names.add(f"{function.namespace}::{function.name().partition('::')[2]}")
        return function(*args, **(kwargs or {}))
