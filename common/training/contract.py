"""The contract of methods: what every file of `methods/` keeps, as checks that need nothing but the project.

`python -m common check method <name>` runs them on one file, and the tests on every file found. Each check is
a function of a `Specimen` that raises a UserError in a sentence; its name says what it checks.
"""

from __future__ import annotations

import ast
import inspect
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import methods
from common.config import entries, reading
from common.config.method_class import check_class
from common.config.method_facts import cannot_be_loaded
from common.config.settings import typed
from common.errors import UserError
from common.labels import VOID
from common.networks.hooks import Hooks, described, place
from common.networks.network import Network
from common.networks.options import ModelOptions
from common.networks.structured import StructuredNetwork, refined
from methods.base import Method

CLASSES = 4
CHANNELS = 6
MODEL = "deeplabv3plus-test_resnet"
OPTIONS = {MODEL: {"weights": "none", "decoder_channels": 8}}
ALLOWED = ("common.kernels.", "common.labels.")
"""What a method may import of the application."""


@dataclass(frozen=True)
class Specimen:
    """A method that is checked, with what is put into it.

    Attributes:
        name: The module of `methods/`.
    """

    name: str

    @property
    def kind(self) -> type[Method]:
        """Its class.

        Raises:
            UserError: It cannot be loaded.
        """
        try:
            kind = methods.load(self.name)
            check_class(kind)
        except (Exception, SystemExit) as error:
            raise cannot_be_loaded(self.name, error) from error
        return kind

    def entry(self) -> entries.MethodEntry:
        """What its name means in a configuration without options."""
        config = {"datasets": ["digits"], "models": [MODEL], "methods": [self.name], "seeds": [0]}
        return entries.method(reading.complete(config | {"model_options": OPTIONS}), self.name, "digits")

    def build(self, num_classes: int = CLASSES, channels: int = CHANNELS) -> Method:
        """The method with its default options, float64, the same each time."""
        torch.manual_seed(0)
        return self.entry().build(num_classes, channels).double()

    def require(self, condition: object, sentence: str) -> None:
        """Raises a UserError about this method unless a condition holds."""
        if not condition:
            raise UserError(f"methods/{self.name}.py: {sentence}")


Check = Callable[[Specimen], None]


def failure(check: Check, specimen: Specimen) -> str | None:
    """Runs a check.

    Returns:
        What is wrong, in a sentence, or None.
    """
    try:
        check(specimen)
    except UserError as error:
        return str(error)
    except Exception as error:  # a method may fail in any way
        return f"{place(specimen.kind, error)} fails with {described(error)}"
    return None


def title(check: Check) -> str:
    """What a check checks: the name of its function."""
    return check.__name__.replace("_", " ")


def example(side: int = 24, num_classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits, float64 `[2, K, side, side]`, and labels `[2, side, side]`, void in the first rows of one."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, num_classes, side, side, generator=generator, dtype=torch.double)
    labels = torch.randint(num_classes, (2, side, side), generator=generator)
    labels[0, : side // 6] = VOID
    return logits, labels


def grid(h: int, w: int, num_classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    """Images `[2, 3, 8h, 8w]`, features and unary scores on a grid; the last two have gradients."""
    generator = torch.Generator().manual_seed(2)
    images = 255 * torch.rand(2, 3, 8 * h, 8 * w, generator=generator, dtype=torch.double)
    features, unary = (
        torch.randn(2, channels, h, w, generator=generator, dtype=torch.double).requires_grad_()
        for channels in (CHANNELS, num_classes)
    )
    return images, features, unary


def pixels(side: int = 24) -> Tensor:
    """Images uint8 `[2, 3, side, side]`."""
    return torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def can_be_built_for_any_number_of_classes(specimen: Specimen) -> None:
    """As a configuration builds it: there, numbers are written as they are meant, 1.0 is 1."""
    for num_classes in (2, 3, 21):
        specimen.build(num_classes)


def trains_and_predicts_with_a_network(specimen: Specimen) -> None:
    """The path that every stage takes: what a hook returns is what the next can work with."""
    options = reading.complete(
        {"datasets": ["digits"], "models": [MODEL], "methods": [specimen.name], "seeds": [0]}
        | {"model_options": OPTIONS}
    )["model_options"][MODEL]
    torch.manual_seed(0)
    network = Network(MODEL, CLASSES, typed(ModelOptions, options))
    model = StructuredNetwork(network, specimen.entry().build(CLASSES, network.feature_channels))
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, 50, 70), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (2, 50, 70), generator=generator)
    model.loss(images, labels).backward()
    for key, parameter in model.named_parameters():
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        specimen.require(finite, f"the gradient of its loss by {key} is not finite")
    model.eval()
    with torch.no_grad():
        refined(model.method, images, model.probabilities(images, model.method.refines))
        model.hooks.diagnostics()


def structure_gives_logits_on_the_grid_or_a_finer_one(specimen: Specimen) -> None:
    """Of any number of classes, with a gradient by the network's scores."""
    for num_classes in (2, 11, 21):
        images, features, unary = grid(5, 7, num_classes)
        logits = Hooks(specimen.build(num_classes)).structure(images, features, unary)
        (gradient,) = torch.autograd.grad(logits.square().sum(), unary)
        specimen.require(
            gradient.any(), "structure does not depend on the network's scores: its gradient is 0"
        )


def parameters_get_gradients(specimen: Specimen) -> None:
    """All that there is to train is trained, by `structure` or by `loss`."""
    method = specimen.build()
    _, labels = example(side=48)
    logits = nn.functional.interpolate(method.structure(*grid(6, 6)), (48, 48), mode="bilinear")
    method.loss(logits, labels).backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            specimen.require(gradient is not None, f"its parameter {key} has no gradient: it is not trained")
            finite = gradient is not None and gradient.isfinite().all()
            specimen.require(finite, f"the gradient of its parameter {key} is not finite")


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


def loss_is_a_finite_scalar_with_a_correct_gradient(specimen: Specimen) -> None:
    """The derivative along one direction is that of finite differences."""
    method = specimen.build()
    logits, labels = example(side=16)
    logits.requires_grad_()
    value = Hooks(method).loss(logits, labels)
    direction = torch.randn(logits.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(value, logits)
    slope = float((gradient * direction).sum())
    # a library may compute in float32 whatever it is given
    step, tolerance = (1e-5, 1e-5) if value.dtype == torch.double else (0.01, 0.01)
    with torch.no_grad():
        ends = [float(method.loss(logits + sign * step * direction, labels)) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * step)
    specimen.require(
        abs(slope - difference) <= tolerance * max(1.0, abs(difference)),
        f"the gradient of loss is wrong: along a direction it is {slope:.6g}, and by differences "
        f"{difference:.6g}",
    )


def loss_prefers_the_truth(specimen: Specimen) -> None:
    """It is lower for scores that are right than for those that are wrong."""
    method = specimen.build()
    _, labels = example()
    truth = nn.functional.one_hot(labels.clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2).double()
    right, wrong = (float(method.loss(sign * (8 * truth - 4), labels)) for sign in (1, -1))
    specimen.require(
        right < wrong,
        f"loss does not prefer the truth: it is {right:.4g} for it and {wrong:.4g} for its reverse",
    )


def void_changes_nothing(specimen: Specimen) -> None:
    """Pixels that are void have no derivative: those that no other pixel's window reaches."""
    logits, labels = example()
    logits.requires_grad_()
    specimen.build().loss(logits, labels).backward()
    assert logits.grad is not None  # for mypy: it is set above
    specimen.require(
        not logits.grad[0, :, :2].any(),
        f"pixels whose label is void ({VOID}) change the loss: leave them out",
    )


def loss_survives_void_and_absent_classes(specimen: Specimen) -> None:
    """Images without a label, or with one class alone, have a finite loss with a finite gradient."""
    method = specimen.build()
    logits, labels = example()
    for value, name in ((VOID, "all labels are void"), (0, "all labels are of one class")):
        logits = logits.detach().requires_grad_()
        loss = method.loss(logits, torch.full_like(labels, value))
        loss.backward()
        specimen.require(loss.isfinite(), f"loss is {loss.item()} where {name}")
        assert logits.grad is not None  # for mypy: it is set above
        specimen.require(logits.grad.isfinite().all(), f"the gradient of loss is not finite where {name}")


def loss_refuses_labels_that_are_no_class(specimen: Specimen) -> None:
    """A label that is neither a class nor void is an error, not void."""
    method = specimen.build()
    for wrong in (-1, CLASSES, 254):
        logits, labels = example()
        labels[1, 12, 12] = wrong
        try:
            method.loss(logits, labels)
        except Exception:  # PyTorch's losses raise errors of several kinds
            continue
        sentence = f"loss takes the label {wrong} without a word, and there are {CLASSES} classes"
        specimen.require(False, f"{sentence}: begin with valid_pixels of common.labels, which refuses it")


def logits_that_are_not_finite_give_such_a_loss(specimen: Specimen) -> None:
    """Training then says at which iteration, instead of failing inside a decomposition."""
    logits, labels = example()
    for value in (torch.nan, torch.inf):
        loss = specimen.build().loss(torch.full_like(logits, value), labels)
        specimen.require(
            not loss.isfinite(), f"loss is {loss.item():.4g} where logits are {value}: it hides them"
        )


def bfloat16_logits_are_computed_in_float32(specimen: Specimen) -> None:
    """Mixed precision gives the losses half precision."""
    method = specimen.build().float()
    logits, labels = example()
    logits = logits.bfloat16()
    half, single = method.loss(logits, labels), method.loss(logits.float(), labels)
    alike = half.dtype == torch.float32 and torch.allclose(half, single, rtol=1e-5, atol=1e-5)
    values = f"{half.item():.6g}, and {single.item():.6g} of the same in float32"
    specimen.require(alike, f"loss of bfloat16 logits is {values}: let it begin with logits.float()")


def probabilities_and_refinements_sum_to_one(specimen: Specimen) -> None:
    """They are not negative, and do not depend on the other images of the batch."""
    method = specimen.build().float().eval()
    logits, _ = example()
    hooks, images = Hooks(method), pixels()
    probabilities = hooks.probabilities(logits.float())
    results = {"probabilities": probabilities, "refine": hooks.refine(images, probabilities)}
    for hook, result in results.items():
        error = float((result.sum(dim=1) - 1).abs().max())
        specimen.require(error < 1e-4, f"the sums of {hook} over classes differ from one by {error:.2g}")
        specimen.require((result >= 0).all(), f"{hook} returns negative values, as {float(result.min()):.2g}")
    alone = method.refine(images[1:], probabilities[1:])
    alike = torch.allclose(alone, results["refine"][1:], atol=1e-5, rtol=0)
    specimen.require(alike, "refine gives an image something else alone than together with another")


def probabilities_are_in_the_order_of_the_logits(specimen: Specimen) -> None:
    """However large the logits are, on whichever side: labels are read from probabilities."""
    method = specimen.build()
    logits, _ = example()
    scales = (0, 1, 30, 1e4)
    for scale, side, dtype in itertools.product(scales, (-3, 0, 3), (torch.float32, torch.float64)):
        shifted = (scale * logits + side * scale).to(dtype)
        result = method.probabilities(shifted)
        about = f"where logits are of size {scale:g} around {side * scale:g}, in {str(dtype)[6:]}"
        specimen.require(result.dtype == dtype, f"probabilities returns {str(result.dtype)[6:]} {about}")
        summed = (result.sum(dim=1) - 1).abs().max() < 1e-5
        specimen.require(summed, f"probabilities do not sum to one {about}")  # nor do those with NaN
        same = torch.equal(result.argmax(dim=1), shifted.argmax(dim=1))
        specimen.require(same, f"the highest probability is not that of the highest logit {about}")


def auxiliary_loss_is_a_scalar_and_diagnostics_are_numbers(specimen: Specimen) -> None:
    """Diagnostics are those of the latest `structure` or `loss`, in training and evaluation mode."""
    for training in (True, False):
        method = specimen.build().train(training)
        hooks = Hooks(method)
        logits, labels = example()
        hooks.loss(logits.requires_grad_(), labels, "auxiliary_loss")
        hooks.structure(*grid(4, 4))
        hooks.diagnostics()


def inputs_are_left_as_they_are(specimen: Specimen) -> None:
    """A hook that changes what it gets changes what the next one gets."""
    method = specimen.build().float().eval()
    logits, labels = example()
    inputs: dict[str, tuple[Tensor, ...]] = {
        "structure": tuple(x.detach().float() for x in grid(4, 4)),
        "loss": (logits.float(), labels),
        "auxiliary_loss": (logits.float(), labels),
        "probabilities": (logits.float(),),
        "refine": (pixels(), logits.float().softmax(dim=1)),
    }
    for hook, values in inputs.items():
        before = [value.clone() for value in values]
        with torch.no_grad():
            getattr(method, hook)(*values)
        same = all(map(torch.equal, before, values))
        specimen.require(same, f"{hook} changes its input in place: let it work on a copy")


def state_goes_through_a_file(specimen: Specimen) -> None:
    """A method that was loaded computes what the trained one did."""
    method, buffer = specimen.build(), io.BytesIO()
    logits, labels = example()
    method.structure(*grid(4, 4))  # as in training, where it may learn by itself
    method.loss(logits, labels)
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)  # other first weights
    other = specimen.entry().build(CLASSES, CHANNELS).double()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    inputs = grid(4, 4)
    same = torch.equal(method.eval().structure(*inputs), other.eval().structure(*inputs))
    sentence = "structure computes something else after its state went through a file"
    specimen.require(same, f"{sentence}: what it has learned must be in parameters or buffers")


CHECKS: tuple[Check, ...] = (
    can_be_loaded,
    is_documented_and_has_defaults,
    imports_nothing_of_common_but_kernels_and_labels,
    can_be_built_for_any_number_of_classes,
    trains_and_predicts_with_a_network,
    structure_gives_logits_on_the_grid_or_a_finer_one,
    parameters_get_gradients,
    parameters_are_registered,
    loss_is_a_finite_scalar_with_a_correct_gradient,
    loss_prefers_the_truth,
    void_changes_nothing,
    loss_survives_void_and_absent_classes,
    loss_refuses_labels_that_are_no_class,
    logits_that_are_not_finite_give_such_a_loss,
    bfloat16_logits_are_computed_in_float32,
    probabilities_and_refinements_sum_to_one,
    probabilities_are_in_the_order_of_the_logits,
    auxiliary_loss_is_a_scalar_and_diagnostics_are_numbers,
    inputs_are_left_as_they_are,
    state_goes_through_a_file,
)
"""All checks, in the order in which a new file is likely to fail them."""
