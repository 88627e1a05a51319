"""Calling the hooks of a method: what fails, and what cannot be meant, is a sentence for the user.

Of every result the shape is looked at. The values of the first one are looked at too: that costs nothing
beside a training or a scoring, and a method that returns nonsense does so at once.
"""

from __future__ import annotations

import contextlib
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from common import compiler
from common.errors import Diverged, UserError
from common.installation import checkout_name
from common.labels import VOID
from common.networks.sights import asked_for
from methods.base import Method, Setting

SUM_TOLERANCE = 1e-3
"""By how much a sum of probabilities may differ from one; that of half precision by ten times as much."""

MACHINE = ("allocate memory", "out of memory", "CUDA error", "NCCL", "gloo", "DataLoader worker")
"""What errors say that are the machine's, whichever code was running."""

NOT_FINITE = (
    "the network's scores of its first images are not finite, before the method sees them: look at "
    "model_options (weights, mean, std); if it is a trained model, it diverged in its last step"
)

LOGGED = ("iteration", "loss", "learning_rate", "images_per_second", "waiting_for_data", "seconds")
"""What stands in the log of training beside diagnostics."""

_looked_at: WeakKeyDictionary[Method, set[tuple[str, bool]]] = WeakKeyDictionary()
"""The hooks of every method whose first results were looked at, in training mode and not."""


class Hooks:
    """The hooks of a method, as the stages call them.

    Every method of this class calls the hook of its name and raises a UserError that names file and hook if
    the hook fails, or if its result is of another shape than the hook's, or, at its first call, has values
    that cannot be meant.

    Attributes:
        method: The method.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def structure(self, images: Tensor, features: Tensor, unary: Tensor) -> Tensor:
        """The logits that the method makes of the network's output, `[N, K, h, w]` on the grid it declares.

        Args:
            images: The network's input, `[N, 3, H, W]`.
            features: `[N, C, h, w]`.
            unary: `[N, K, h, w]`.

        Raises:
            Diverged: The network's output is not finite.
        """
        first = self._first("structure")
        if first and not unary.isfinite().all():
            raise Diverged(NOT_FINITE)
        with self._called("structure(images, features, unary)"):
            logits = self.method.structure(images, features, unary)
        self._check_grid(logits, images, unary)
        if first:
            self._check_finite("structure", logits, "although the network's scores are finite")
            self._check_derivative("structure", logits, unary, "the network's scores")
        return logits

    def asked_for(self, hook: str) -> tuple[str, ...]:
        """What `loss` or `auxiliary_loss` gets beside logits and labels, by name."""
        return asked_for(type(self.method), hook)

    def loss(
        self, logits: Tensor, labels: Tensor, hook: str = "loss", sights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The loss, a scalar, of logits `[N, K, H, W]` and labels `[N, H, W]`.

        Args:
            logits: Upsampled to full size.
            labels: Integers.
            hook: `loss` or `auxiliary_loss`.
            sights: What there is of all that losses may ask for; the hook gets what it asks for.
        """
        seen = {name: sights[name] for name in self.asked_for(hook)} if sights else {}
        first, inputs = self._first(hook), {"labels": labels} | seen
        versions = {name: value._version for name, value in inputs.items()}
        with self._called(f"{hook}({', '.join(['logits', *inputs])})"):
            value = getattr(self.method, hook)(logits, labels, **seen)
        for name, version in versions.items():
            if inputs[name]._version != version:
                raise UserError(
                    f"{place(type(self.method))}: {hook} changes {name} in place: let it work on a copy"
                )
        scalar = isinstance(value, Tensor) and value.is_floating_point() and value.shape == ()
        if not scalar or value.device != logits.device:
            wanted = f"a scalar, a floating-point tensor without dimensions on {logits.device}"
            raise self._returns(hook, value, wanted)
        if first:
            if not logits.isfinite().all():
                raise Diverged(NOT_FINITE)
            self._check_finite(hook, value, f"although the logits are finite{_of_void(labels)}")
            self._check_derivative(hook, value, logits, "the logits")
        return value

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of a loss, which fails if a hook has changed or cut off what they go by."""
        with self._called("the gradient of its loss"):
            loss.backward()

    @torch.no_grad()
    def prepare(self, labels: Tensor) -> Tensor:
        """What the method prepares of the labels uint8 `[H, W]` of one image, on the CPU."""
        first, version = self._first("prepare"), labels._version
        with self._called("prepare(labels)"):
            prepared = self.method.prepare(labels)
        if labels._version != version:
            raise UserError(
                f"{place(type(self.method))}: prepare changes labels in place: let it work on a copy"
            )
        if not isinstance(prepared, Tensor) or prepared.device.type != "cpu":
            raise self._returns("prepare", prepared, "a tensor on the CPU")
        if first:
            self._check_finite("prepare", prepared, f"for labels{_of_void(labels)}")
        return prepared

    def check_alike(self, prepared: Sequence[Tensor]) -> None:
        """Checks that what was prepared for the images of a batch can be put together."""
        kinds = list(dict.fromkeys(f"shape {[*x.shape]} and type {_type(x)}" for x in prepared))
        if len(kinds) > 1:
            raise UserError(
                f"{place(type(self.method))}: prepare returns a tensor of {kinds[0]} for one image of a "
                f"batch and of {kinds[1]} for another: let them be alike for all images of a size"
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities `[N, K, H, W]` that the loss trains, of logits of that shape."""
        first = self._first("probabilities")
        with self._called("probabilities(logits)"):
            result = self.method.probabilities(logits)
        self._check_probabilities("probabilities", result, logits, first)
        return result

    def refine(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """The refinement of probabilities `[N, K, H, W]` by the images uint8 `[N, 3, H, W]`.

        It is of the same shape; or labels, integers `[N, H, W]`.
        """
        first = self._first("refine")
        with self._called("refine(images, probabilities)"):
            result = self.method.refine(images, probabilities)
        if are_labels(result):
            self._check_labels(result, probabilities, first)
        else:
            self._check_probabilities("refine", result, probabilities, first)
        return result

    def diagnostics(self) -> dict[str, float]:
        """What the method says about its latest result; finite numbers, if it is not in training mode.

        In training a loss that is not finite has a message of its own.
        """
        with self._called("diagnostics()"):
            values = self.method.diagnostics()
        if not isinstance(values, dict):
            raise self._returns("diagnostics", values, "a dictionary of numbers")
        for name, value in values.items():
            if name in LOGGED:
                raise UserError(
                    f"{place(type(self.method))}: diagnostics has a number called {name}, as the log of "
                    "training has: give it another name"
                )
            finite = isinstance(value, int | float) and (self.method.training or math.isfinite(value))
            if not isinstance(name, str) or not finite:
                raise self._returns("diagnostics", {name: value}, "finite numbers with texts as their names")
        return values

    def _first(self, hook: str) -> bool:
        """Whether a hook is called for the first time in its mode; not where its operations are recorded."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        looked_at = _looked_at.setdefault(self.method, set())
        key = (hook, self.method.training)
        first = key not in looked_at
        looked_at.add(key)
        return first

    @contextlib.contextmanager
    def _called(self, hook: str) -> Iterator[None]:
        """Turns what a hook raises into a sentence, unless it is the machine's fault."""
        try:
            with compiler.put_off():
                yield
        except (Exception, SystemExit) as error:
            if isinstance(error, UserError) or of_machine(error) or _of_compiler(error):
                raise
            where = place(type(self.method), error)
            if isinstance(error, ValueError):
                name = hook.partition("(")[0]
                raise UserError(f"{where}: {name} refuses its input: {error}") from error
            raise UserError(f"{where}: {hook} fails with {described(error)}") from error

    def _returns(self, hook: str, value: object, wanted: str) -> UserError:
        """The error of a hook that returns something else than is wanted."""
        return UserError(
            f"{place(type(self.method))}: {hook} returns {_shown(value)}, and must return {wanted}"
        )

    def _check_grid(self, logits: Tensor, images: Tensor, unary: Tensor) -> None:
        """Checks that logits are on the grid that the method declares."""
        declared = self.method.grid
        sides = images.shape[2:] if declared == "full" else [declared * side for side in unary.shape[2:]]
        wanted = [*unary.shape[:2], *sides]
        floating = isinstance(logits, Tensor) and logits.is_floating_point()
        if not floating or logits.device != unary.device or [*logits.shape] != wanted:
            grid = f"as its grid is {declared}: another one, 2, 3, … or full, is declared by the class"
            raise self._returns("structure", logits, f"logits {wanted}, {grid}")

    def _check_probabilities(self, hook: str, result: Tensor, like: Tensor, first: bool) -> None:
        """Checks the shape of probabilities, and at first that they are some."""
        floating = isinstance(result, Tensor) and result.is_floating_point()
        if not floating or result.shape != like.shape or result.device != like.device:
            raise self._returns(hook, result, f"probabilities of shape {[*like.shape]} on {like.device}")
        if not first:
            return
        result = result.detach()
        self._check_finite(hook, result, "although its input is finite")
        lowest = float(result.min())
        sums = result.sum(dim=1, dtype=torch.promote_types(result.dtype, torch.float32))
        low, high = (float(x) for x in sums.aminmax())
        tolerance = SUM_TOLERANCE * (10 if result.dtype.itemsize < 4 else 1)
        if lowest < -tolerance or max(1 - low, high - 1) > tolerance:
            raise UserError(
                f"{place(type(self.method))}: {hook} returns values of at least {lowest:.4g} with sums over "
                f"classes from {low:.4g} to {high:.4g}, and must return probabilities: not negative, summing "
                "to one over classes, as a softmax does"
            )

    def _check_labels(self, result: Tensor, probabilities: Tensor, first: bool) -> None:
        """Checks the shape of labels that `refine` has decided, and at first that they are classes."""
        n, classes, *size = probabilities.shape
        place_of = probabilities.device
        wanted = f"labels of shape {[n, *size]} in 0..{classes - 1} on {place_of}, or probabilities"
        if [*result.shape] != [n, *size] or result.device != probabilities.device:
            raise self._returns("refine", result, wanted)
        low, high = (int(x) for x in result.aminmax()) if first else (0, 0)
        if low < 0 or high >= classes:
            raise UserError(
                f"{place(type(self.method))}: refine returns labels from {low} to {high}, and must return "
                f"{wanted}"
            )

    def _check_finite(self, hook: str, result: Tensor, although: str) -> None:
        """Checks that a result has no NaN and nothing infinite."""
        if not result.isfinite().all():
            kind = "NaN" if result.isnan().any() else "infinite values"
            raise UserError(
                f"{place(type(self.method))}: {hook} returns {kind} at its first call, {although}: look for "
                "logarithms and roots of 0, divisions by 0, and exponentials of large numbers"
            )

    def _check_derivative(self, hook: str, result: Tensor, by: Tensor, name: str) -> None:
        """Checks that a result has a finite derivative by what it was computed from, if that is wanted."""
        if not (torch.is_grad_enabled() and by.requires_grad):
            return
        wanted = f"what has a gradient by {name}: no detach, no_grad, argmax or NumPy on the way"
        if not result.requires_grad:
            raise self._returns(hook, result, wanted)
        own = {f"its parameter {key}": x for key, x in self.method.named_parameters() if x.requires_grad}
        with self._called(f"the gradient of {hook}"), torch.autocast(by.device.type, enabled=False):
            gradients = torch.autograd.grad(
                result.sum(), [by, *own.values()], retain_graph=True, allow_unused=True
            )
        if gradients[0] is None:
            raise self._returns(hook, result, wanted)
        for part, gradient in zip((name, *own), gradients):
            if gradient is not None and not gradient.isfinite().all():
                raise UserError(
                    f"{place(type(self.method))}: the gradient of {hook} by {part} is not finite at its "
                    "first call, although its value is: look for roots of 0, norms of 0, and divisions under "
                    "a where"
                )


def are_labels(result: object) -> bool:
    """Whether what `refine` returns are labels, no probabilities."""
    return (
        isinstance(result, Tensor)
        and result.ndim == 3
        and not (result.is_floating_point() or result.is_complex() or result.dtype == torch.bool)
    )


def _of_compiler(error: BaseException) -> bool:
    """Whether an error is that PyTorch cannot compile the network."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def reason_to_skip(kind: type[Method], setting: Setting) -> str | None:
    """Why a method is not run in a setting, as its class says; None if it is.

    Raises:
        UserError: The class fails to say it, or says something else.
    """
    try:
        reason = kind.skip(setting)
    except Exception as error:  # a method may fail in any way
        if isinstance(error, UserError) or of_machine(error):
            raise
        raise UserError(f"{place(kind, error)}: skip(setting) fails with {described(error)}") from error
    if reason is not None and not (isinstance(reason, str) and reason.strip()):
        raise UserError(f"{place(kind)}: skip returns {reason!r}, and must return a reason, a text, or None")
    return reason


def of_machine(error: BaseException) -> bool:
    """Whether an error is the machine's or another process's, whichever code it was raised in."""
    if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError | torch.AcceleratorError):
        return not isinstance(error, FileNotFoundError)
    return any(text in str(error) for text in MACHINE)


def place(kind: type[Method], error: BaseException | None = None) -> str:
    """The file of a method, `methods/<name>.py`; with `:<line>` where an error was not raised on purpose.

    Args:
        kind: The class of the method.
        error: What was raised by its code.
    """
    name = f"{checkout_name(kind.__module__).replace('.', '/')}.py"
    frames = traceback.extract_tb(error.__traceback__) if error else []
    if not frames or (frames[-1].line or "").startswith("raise ValueError("):
        return name
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    own = [frame.lineno for frame in frames if frame.filename == file]
    return f"{name}:{own[-1]}" if own else name


def described(error: BaseException) -> str:
    """The kind and the message of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _shown(value: object) -> str:
    """What a hook returned, in a few words."""
    if not isinstance(value, Tensor):
        return repr(value) if value is None or isinstance(value, dict) else f"a {type(value).__name__}"
    gradient = "" if value.requires_grad else " without a gradient" if torch.is_grad_enabled() else ""
    return f"a tensor of shape {[*value.shape]} and type {_type(value)} on {value.device}{gradient}"


def _type(value: Tensor) -> str:
    """The type of the numbers of a tensor."""
    return str(value.dtype).removeprefix("torch.")


def _of_void(labels: Tensor) -> str:
    """What to say of labels that are all void."""
    return " (all labels are void)" if bool((labels == VOID).all()) else ""
