"""What a file of `methods/` and its class are like."""

from __future__ import annotations

import ast
import inspect
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common.installation import source
from common.networks.hooks import reason_to_skip
from common.training.contract.specimen import CHANNELS, CLASSES, Specimen, example, grid, loss_of
from methods.base import Setting

ALLOWED = ("common.kernels.", "common.labels.")
"""What a method may import of the application."""


def can_be_loaded(specimen: Specimen) -> None:
    """The file defines one class, whose attributes and hooks are what the stages look for."""
    specimen.kind  # noqa: B018 - it raises


def is_documented_and_has_defaults(specimen: Specimen) -> None:
    """Module and class have docstrings, and every option a default."""
    kind = specimen.kind
    about = inspect.getdoc(inspect.getmodule(kind)) or ""
    specimen.require(
        len(about) > 40, "its first lines must be a docstring that says what it is and where it is from"
    )
    specimen.require(kind.__doc__, f"the class {kind.__name__} needs a docstring")
    for parameter in list(inspect.signature(kind).parameters.values())[2:]:
        has_default = parameter.default is not inspect.Parameter.empty
        specimen.require(has_default, f"the option {parameter.name} of __init__ needs a default")


def imports_nothing_of_common_but_kernels_and_labels(specimen: Specimen) -> None:
    """It knows no dataset, no model, no configuration and no file."""
    for name in imports(Path(inspect.getfile(specimen.kind))):
        allowed = name.partition(".")[0] != "common" or f"{name}.".startswith(ALLOWED)
        specimen.require(allowed, f"it imports {name}, and may import common.kernels and common.labels alone")


def imports(path: Path) -> Iterator[str]:
    """The full names of what a file imports."""
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def can_be_built_for_any_number_of_classes(specimen: Specimen) -> None:
    """As a configuration builds it: there, numbers are written as they are meant, 1.0 is 1."""
    for num_classes in (2, 3, 21):
        specimen.build(num_classes)


def skip_gives_a_reason_or_none(specimen: Specimen) -> None:
    """The same each time; datasets and models may be any."""
    for num_classes, stride in ((2, 8), (171, 32)):
        options = specimen.entry().options
        setting = Setting("any", num_classes, "deeplabv3-resnet50", stride, options)
        reasons = {reason_to_skip(specimen.kind, setting) for _ in range(2)}
        specimen.require(len(reasons) == 1, "skip says something else when it is asked again")


def parameters_are_registered(specimen: Specimen) -> None:
    """What is kept in lists or dictionaries of Python is neither trained nor saved."""
    method = specimen.build()
    known = {id(x) for x in itertools.chain(method.parameters(), method.buffers(), method.modules())}
    for module in method.modules():
        for key, value in vars(module).items():
            inner = value.values() if isinstance(value, dict) else value
            if key.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            lost = [x for x in inner if isinstance(x, nn.Module | nn.Parameter) and id(x) not in known]
            sentence = f"{key} is a {type(value).__name__}, and what is in it is neither trained nor saved"
            specimen.require(
                not lost, f"{sentence}: use nn.ModuleList, nn.ParameterList or their dictionaries"
            )


def state_goes_through_a_file(specimen: Specimen) -> None:
    """A method that was loaded computes what the trained one did."""
    method, buffer = specimen.build(), io.BytesIO()
    logits, labels = example()
    method.structure(*grid(4, 4))  # as in training, where it may learn by itself
    loss_of(method, logits, labels)
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)  # other first weights
    other = specimen.entry().build(CLASSES, CHANNELS).double()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    inputs = grid(4, 4)
    same = torch.equal(method.eval().structure(*inputs), other.eval().structure(*inputs))
    sentence = "structure computes something else after its state went through a file"
    specimen.require(same, f"{sentence}: what it has learned must be in parameters or buffers")
