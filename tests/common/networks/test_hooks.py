"""What a hook of a method does wrong is a sentence that names file and hook, when it first runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import Diverged, UserError
from common.networks.hooks import Hooks
from common.networks.network import Output
from common.networks.structured import StructuredNetwork, refined
from methods.base import Method

CLASSES = 3
Hook = Callable[..., Any]


class Scores(nn.Module):
    """A network of one convolution, with an auxiliary classifier."""

    auxiliary_weight, align_corners, alignment = 0.4, False, "middles"

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, CLASSES, 4, stride=4)

    def pad(self, images: Tensor) -> Tensor:
        return images.float()

    def forward(self, images: Tensor) -> Output:
        unary = self.convolution(images / 255)
        return Output(unary, unary, 2 * unary if self.training else None)


def model(hook: str, function: Hook) -> StructuredNetwork:
    """A network with a method that has one hook of its own."""
    torch.manual_seed(0)
    kind = type("Own", (Method,), {hook: function, "__module__": "methods.own"})
    return StructuredNetwork(Scores(), kind(CLASSES, CLASSES))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 16, 24), generator=generator).to(torch.uint8)
    labels = torch.randint(CLASSES, (2, 16, 24), generator=generator)
    labels[0, :4] = 255
    return images, labels


def trained(model: StructuredNetwork) -> None:
    model.train()
    model.loss(*batch()).backward()
    model.hooks.diagnostics()


def scored(model: StructuredNetwork) -> None:
    model.eval()
    with torch.inference_mode():
        images, _ = batch()
        refined(model.method, images, model.probabilities(images))
        model.hooks.diagnostics()


def raising(error: Exception) -> Hook:
    def hook(self: Method, *_: Tensor) -> Tensor:
        raise error

    return hook


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, ignore_index=255)


class Broken(torch.autograd.Function):
    """A derivative that cannot be computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[0, 0, 0, 0, 0]


def in_place(x: Tensor) -> Tensor:
    """Changes what the derivative needs."""
    result = x.exp()
    result += 1
    return result


GRID = r"must return logits \[2, 3, 4, 6\], as its grid is 1: another one, 2, 3, … or full, is declared by"
WRONG_STRUCTURE: dict[str, tuple[Hook, str]] = {
    "nothing": (lambda s, i, f, u: None, f"returns None, and {GRID}"),
    "a pair": (lambda s, i, f, u: (u, u), f"returns a tuple, and {GRID}"),
    "an array": (lambda s, i, f, u: np.zeros((2, 3, 4, 6)), f"returns a ndarray, and {GRID}"),
    "a number": (lambda s, i, f, u: 1.0, f"returns a float, and {GRID}"),
    "half the grid": (lambda s, i, f, u: u[..., ::2, ::2], rf"of shape \[2, 3, 2, 3\] .*{GRID}"),
    "one side of it": (lambda s, i, f, u: u[..., :3], rf"of shape \[2, 3, 4, 3\] .*{GRID}"),
    "64 channels": (lambda s, i, f, u: u.repeat(1, 64, 1, 1)[:, :64], rf"shape \[2, 64, 4, 6\] .*{GRID}"),
    "one channel": (lambda s, i, f, u: u[:, :1], rf"of shape \[2, 1, 4, 6\] .*{GRID}"),
    "one image": (lambda s, i, f, u: u[:1], rf"of shape \[1, 3, 4, 6\] .*{GRID}"),
    "no channels": (lambda s, i, f, u: u[:, 0], rf"of shape \[2, 4, 6\] .*{GRID}"),
    "more than the image": (lambda s, i, f, u: u.repeat(1, 1, 9, 9), rf"of shape \[2, 3, 36, 54\] .*{GRID}"),
    "labels": (lambda s, i, f, u: u.argmax(1, keepdim=True).repeat(1, 3, 1, 1), f"type int64.*{GRID}"),
    "another device": (lambda s, i, f, u: u.to("meta"), f"on meta.*{GRID}"),
    "complex numbers": (lambda s, i, f, u: u + 1j, f"type complex64.*{GRID}"),
    "NaN": (
        lambda s, i, f, u: u * torch.nan,
        "structure returns NaN at its first call, although the network",
    ),
    "a logarithm of 0": (lambda s, i, f, u: (0 * u).log(), "structure returns infinite values at its first"),
    "0 / 0": (lambda s, i, f, u: u / (u * 0), "structure returns (NaN|infinite values) at its first call"),
}
CUT = "structure returns .* without a gradient, and must return what has a gradient by the network's scores"
WRONG_IN_TRAINING: dict[str, tuple[Hook, str]] = {
    "detached": (lambda s, i, f, u: u.detach(), CUT),
    "through NumPy": (lambda s, i, f, u: torch.from_numpy(u.detach().numpy().copy()), CUT),
    "other scores": (
        lambda s, i, f, u: (0 * i[:, :, ::4, ::4]).requires_grad_(),
        "must return what has a gradient",
    ),
    "a root of 0": (
        lambda s, i, f, u: u + (0 * u).sqrt(),
        "gradient of structure by the network's scores is not",
    ),
    "a broken derivative": (
        lambda s, i, f, u: Broken.apply(u),
        "the gradient of structure fails with IndexError",
    ),
    "in place": (
        lambda s, i, f, u: in_place(u),
        "the gradient of structure fails with RuntimeError: one of the var",
    ),
}
SCALAR = "and must return a scalar, a floating-point tensor without dimensions on cpu"
WRONG_LOSS: dict[str, tuple[Hook, str]] = {
    "nothing": (lambda s, x, y: None, f"returns None, {SCALAR}"),
    "a number": (lambda s, x, y: 0.5, f"returns a float, {SCALAR}"),
    "its value": (lambda s, x, y: entropy(x, y).item(), f"returns a float, {SCALAR}"),
    "a pair": (lambda s, x, y: (entropy(x, y), {}), f"returns a tuple, {SCALAR}"),
    "one per image": (lambda s, x, y: x.square().mean((1, 2, 3)), rf"of shape \[2\] .*{SCALAR}"),
    "a list of one": (lambda s, x, y: entropy(x, y).unsqueeze(0), rf"of shape \[1\] .*{SCALAR}"),
    "one per pixel": (lambda s, x, y: x.logsumexp(1), rf"of shape \[2, 16, 24\] .*{SCALAR}"),
    "a count": (lambda s, x, y: (x.argmax(1) != y).sum(), f"type int64 .*{SCALAR}"),
    "NaN": (
        lambda s, x, y: entropy(x, y) * torch.nan,
        "returns NaN at its first call, although the logits are",
    ),
    "infinite": (lambda s, x, y: entropy(x, y) / 0, "returns infinite values at its first call"),
    "a mean of nothing": (lambda s, x, y: x[:, :, :0].mean(), "returns NaN at its first call"),
    "detached": (lambda s, x, y: entropy(x, y).detach(), "without a gradient, and must return what has"),
    "an accuracy": (lambda s, x, y: (x.argmax(1) == y).float().mean(), "without a gradient, and must return"),
    "of something else": (
        lambda s, x, y: torch.zeros((), requires_grad=True),
        "must return what has a gradient by",
    ),
    "a root of 0": (lambda s, x, y: entropy(x, y) + (0 * x).sum().sqrt(), "by the logits is not finite"),
    "a norm of 0": (lambda s, x, y: (x - x).square().sum().pow(0.5), "by the logits is not finite"),
    "a wrong shape": (
        lambda s, x, y: (x - y).mean(),
        r"loss\(logits, labels\) fails with RuntimeError: The size",
    ),
    "a wrong type": (
        lambda s, x, y: entropy(x, y.float()),
        r"loss\(logits, labels\) fails with RuntimeError",
    ),
    "a label of none": (
        lambda s, x, y: functional.cross_entropy(x, y),
        r"fails with IndexError: Target 255 is out",
    ),
    "a name of none": (lambda s, x, y: undefined(x), "fails with NameError: name 'undefined' is not defined"),  # noqa: F821
    "an attribute of none": (
        lambda s, x, y: s.margin * x.sum(),
        "fails with AttributeError: 'Own' object has no",
    ),
    "too few arguments": (
        lambda s, x: x.mean(),
        r"fails with TypeError: .* takes 2 positional arguments but 3",
    ),
    "too many arguments": (
        lambda s, x, y, z: x.mean(),
        "fails with TypeError: .* missing 1 required positional",
    ),
    "a device of none": (lambda s, x, y: x.sum() + torch.zeros(3, device="meta").sum(), f"on meta, {SCALAR}"),
    "labels in place": (
        lambda s, x, y: entropy(x, y.masked_fill_(y == 255, 0)),
        "changes labels in place: let it",
    ),
    "a broken derivative": (
        lambda s, x, y: Broken.apply(x).mean(),
        "the gradient of loss fails with IndexError|aux",
    ),
}
ONES = r"must return probabilities of shape \[2, 3, 16, 24\] on cpu"
SUMS = "and must return probabilities: not negative, summing to one over classes, as a softmax does"
WRONG_PROBABILITIES: dict[str, tuple[Hook, str]] = {
    "nothing": (lambda s, *x: None, f"returns None, and {ONES}"),
    "whole numbers": (lambda s, *x: x[-1].softmax(1).byte(), f"type uint8 on cpu, and {ONES}"),
    "one image": (lambda s, *x: x[-1].softmax(1)[:1], rf"of shape \[1, 3, 16, 24\] .*{ONES}"),
    "fewer classes": (lambda s, *x: x[-1].softmax(1)[:, 1:], rf"of shape \[2, 2, 16, 24\] .*{ONES}"),
    "another size": (lambda s, *x: x[-1].softmax(1)[..., ::2], rf"of shape \[2, 3, 16, 12\] .*{ONES}"),
    "sides exchanged": (lambda s, *x: x[-1].softmax(1).mT, rf"of shape \[2, 3, 24, 16\] .*{ONES}"),
    "another device": (lambda s, *x: x[-1].softmax(1).to("meta"), f"on meta, and {ONES}"),
    "an array": (lambda s, *x: x[-1].softmax(1).numpy(), f"returns a ndarray, and {ONES}"),
    "log-scores": (lambda s, *x: x[-1].log_softmax(1), f"returns values of at least -.*{SUMS}"),
    "scores": (lambda s, *x: 3 * x[-1] - 5, f"returns values of at least .*{SUMS}"),
    "sigmoids": (lambda s, *x: x[-1].sigmoid(), f"sums over classes from .*{SUMS}"),
    "a softmax over rows": (lambda s, *x: x[-1].softmax(2), f"sums over classes from .*{SUMS}"),
    "nothing at all": (lambda s, *x: torch.zeros_like(x[-1]), f"sums over classes from 0 to 0.*{SUMS}"),
    "percentages": (lambda s, *x: 100 * x[-1].softmax(1), f"sums over classes from 100 to 100.*{SUMS}"),
    "NaN": (
        lambda s, *x: x[-1].softmax(1) * torch.nan,
        "returns NaN at its first call, although its input is",
    ),
    "0 / 0": (lambda s, *x: (0 * x[-1]) / (0 * x[-1]), "returns NaN at its first call"),
    "an error": (
        raising(IndexError("index 7\nis out of range")),
        r"fails with IndexError: index 7 is out of range",
    ),
}
NUMBERS = "and must return finite numbers with texts as their names"
WRONG_DIAGNOSTICS: dict[str, tuple[Hook, str]] = {
    "nothing": (lambda s: None, "returns None, and must return a dictionary of numbers"),
    "a list": (lambda s: [1.0], "returns a list, and must return a dictionary of numbers"),
    "tensors": (lambda s: {"a": torch.zeros(())}, rf"returns \{{'a': tensor\(0.\)\}}, {NUMBERS}"),
    "texts": (lambda s: {"a": "1"}, rf"returns \{{'a': '1'\}}, {NUMBERS}"),
    "numbers as names": (lambda s: {1: 2.0}, rf"returns \{{1: 2.0\}}, {NUMBERS}"),
    "an error": (raising(KeyError("latest")), r"diagnostics\(\) fails with KeyError: 'latest'"),
}


def cases(wrong: dict[str, tuple[Hook, str]]) -> Any:
    return pytest.mark.parametrize(("hook", "sentence"), wrong.values(), ids=wrong)


def refusal(run: Callable[[], None]) -> str:
    """The sentence, which names the file and the hook and is one line."""
    with pytest.raises(UserError) as error:
        run()
    sentence = str(error.value)
    assert sentence.startswith("methods/own.py") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("run", [trained, scored])
@cases(WRONG_STRUCTURE)
def test_a_wrong_structure(run: Callable[[StructuredNetwork], None], hook: Hook, sentence: str) -> None:
    message = refusal(lambda: run(model("structure", hook)))
    assert "structure" in message and re.search(sentence, message), message


@cases(WRONG_IN_TRAINING)
def test_a_structure_without_a_derivative(hook: Hook, sentence: str) -> None:
    assert re.search(sentence, message := refusal(lambda: trained(model("structure", hook)))), message


@pytest.mark.parametrize("name", ["loss", "auxiliary_loss"])
@cases(WRONG_LOSS)
def test_a_wrong_loss(name: str, hook: Hook, sentence: str) -> None:
    message = refusal(lambda: trained(model(name, hook)))
    assert re.search(sentence.replace("loss", "(auxiliary_)?loss"), message) and "loss" in message, message


@pytest.mark.parametrize("name", ["probabilities", "refine"])
@cases(WRONG_PROBABILITIES)
def test_wrong_probabilities(name: str, hook: Hook, sentence: str) -> None:
    message = refusal(lambda: scored(model(name, hook)))
    assert name in message and re.search(sentence, message), message


def test_labels_are_no_probabilities() -> None:
    message = refusal(lambda: scored(model("probabilities", lambda s, x: x.argmax(1))))
    assert re.search(rf"of shape \[2, 16, 24\] and type int64 on cpu, and {ONES}", message), message


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_refine_may_decide_labels(dtype: torch.dtype) -> None:
    own = model("refine", lambda s, i, p: p.argmin(1).to(dtype)).eval()
    images, _ = batch()
    with torch.inference_mode():
        probabilities = own.probabilities(images)
        result = refined(own.method, images, probabilities)
    assert result.decided is not None and result.decided.dtype == torch.uint8
    assert torch.equal(result.decided, probabilities.argmin(1).to(torch.uint8))
    assert result.probabilities is probabilities, "calibration is theirs"
    assert [torch.equal(one.decided[0], all) for one, all in zip(result.each(), result.decided)] == [True] * 2


DECIDED = r"must return labels of shape \[2, 16, 24\] in 0..2 on cpu, or probabilities"


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        (lambda s, i, p: p.argmax(1) + 1, f"refine returns labels from . to 3, and {DECIDED}"),
        (lambda s, i, p: p.argmax(1) - 3, f"refine returns labels from -. to -1, and {DECIDED}"),
        (lambda s, i, p: p.argmax(1)[:, ::2], rf"of shape \[2, 8, 24\] and type int64 on cpu, and {DECIDED}"),
        (lambda s, i, p: p.argmax(1) > 0, f"type bool on cpu, and {ONES}"),
    ],
)
def test_wrong_labels_are_refused(hook: Hook, sentence: str) -> None:
    assert re.search(sentence, message := refusal(lambda: scored(model("refine", hook)))), message


@pytest.mark.parametrize("run", [trained, scored])
@cases(WRONG_DIAGNOSTICS)
def test_wrong_diagnostics(run: Callable[[StructuredNetwork], None], hook: Hook, sentence: str) -> None:
    assert re.search(sentence, message := refusal(lambda: run(model("diagnostics", hook)))), message


def test_numbers_that_are_not_finite_are_wrong_where_the_loss_does_not_tell() -> None:
    nan = model("diagnostics", lambda s: {"a": float("nan")})
    trained(nan)
    assert "returns {'a': nan}, and must return finite numbers" in refusal(lambda: scored(nan))


def test_what_a_parameter_is_derived_by_must_be_finite() -> None:
    def hook(self: Method, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        return unary + self.width.sqrt()

    broken = model("structure", hook)
    broken.method.width = nn.Parameter(torch.zeros(()))
    sentence = "the gradient of structure by its parameter width is not finite at its first call"
    assert sentence in refusal(lambda: trained(broken))


def test_an_error_names_its_line_and_a_refusal_does_not() -> None:
    def broken(self: Method, logits: Tensor, labels: Tensor) -> Tensor:
        return self.nothing

    own = model("loss", broken)
    type(own.method).__module__ = __name__
    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(
        UserError, match=rf"test_hooks.py:{line}: (auxiliary_)?loss\(logits, labels\) fails with"
    ):
        trained(own)
    refusing = model("loss", raising(ValueError("crops are too small")))
    assert refusal(lambda: trained(refusing)).endswith("loss refuses its input: crops are too small")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(28, "No space left on device"),
        RuntimeError("DataLoader worker (pid 7) was killed"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=repr,
)
def test_the_faults_of_a_machine_are_not_the_methods(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        trained(model("loss", raising(error)))
    assert raised.value is error


@pytest.mark.parametrize("part", ["weight", "input", "auxiliary"])
@pytest.mark.parametrize("run", [trained, scored])
def test_a_network_that_is_not_finite_is_not_the_methods_fault(
    part: str, run: Callable[[StructuredNetwork], None]
) -> None:
    own = model("structure", lambda s, i, f, u: u)
    if part == "weight":
        nn.init.constant_(own.network.convolution.weight, torch.nan)
    elif part == "input":
        own.network.pad = lambda images: images / 0.0
    else:
        if run is scored:
            return
        forward = own.network.forward
        own.network.forward = lambda images: forward(images)._replace(auxiliary=forward(images).unary / 0)
    with pytest.raises(
        Diverged, match="^the network's scores of its first images are not finite, before the"
    ):
        run(own)


def test_values_are_looked_at_once_and_shapes_always() -> None:
    calls = SimpleNamespace(count=0)

    def hook(self: Method, logits: Tensor) -> Tensor:
        calls.count += 1
        return logits.softmax(1) if calls.count == 1 else logits if calls.count == 2 else logits[:1]

    own = model("probabilities", hook)
    scored(own)
    scored(own)
    assert "[1, 3, 16, 24]" in refusal(lambda: scored(own))


def test_the_checks_change_neither_gradients_nor_random_numbers() -> None:
    """The first step of a training is that of one without them."""

    def noisy(self: Method, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        return functional.dropout(unary, 0.5)

    results = []
    for _ in range(2):
        own = model("structure", noisy)
        for repeat in range(2):  # the second without checks
            torch.manual_seed(7)
            own.zero_grad()
            own.train().loss(*batch()).backward()
            results.append((repeat, own.network.convolution.weight.grad.clone(), torch.rand(())))
    for _, gradient, number in results:
        assert torch.equal(gradient, results[0][1]) and torch.equal(number, results[0][2])


def test_nothing_is_looked_at_while_operations_are_recorded() -> None:
    own = model("probabilities", lambda s, x: x)

    class Traced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Hooks(own.method).probabilities(x)

    torch.jit.trace(Traced(), torch.rand(1, 3, 4, 4), check_trace=False)
    assert "summing to one" in refusal(lambda: scored(own)), "it was not taken for the first call"
