"""What the losses of a method, and what it prepares for them, are like."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from common.datasets.split import Sample
from common.labels import VOID
from common.networks.hooks import Hooks
from common.networks.sights import prepares
from common.training.batches import Augmented, Batches, loader, preparing
from common.training.contract.specimen import CLASSES, Specimen, example, grid, loss_of, pixels, sights
from methods.base import Method


def parameters_get_gradients(specimen: Specimen) -> None:
    """All that there is to train is trained, by `structure` or by `loss`."""
    method = specimen.build()
    _, labels = example(side=48)
    logits = nn.functional.interpolate(method.structure(*grid(6, 6)), (48, 48), mode="bilinear")
    loss_of(method, logits, labels).backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            specimen.require(gradient is not None, f"its parameter {key} has no gradient: it is not trained")
            finite = gradient is not None and gradient.isfinite().all()
            specimen.require(finite, f"the gradient of its parameter {key} is not finite")


def loss_is_a_finite_scalar_with_a_correct_gradient(specimen: Specimen) -> None:
    """By the logits, and by what else of the network it sees, at the start and at the end of a training.

    The derivative along one direction is that of finite differences.
    """
    for progress in (0.0, 1.0):
        method = specimen.build()
        method.progress = progress
        logits, labels = example(side=16)
        inputs = {"logits": logits.requires_grad_()} | sights(method, labels)
        value = Hooks(method).loss(logits, labels, sights=inputs)
        derived = [name for name, x in inputs.items() if x.requires_grad]
        gradients = torch.autograd.grad(value, [inputs[name] for name in derived], allow_unused=True)
        for name, gradient in zip(derived, gradients):
            slope, difference = _slopes(method, labels, inputs, name, gradient)
            # a library may compute in float32 whatever it is given
            tolerance = 1e-5 if value.dtype == torch.double else 0.01
            specimen.require(
                abs(slope - difference) <= tolerance * max(1.0, abs(difference)),
                f"the gradient of loss by {name} is wrong: along a direction it is {slope:.6g}, and by "
                f"differences {difference:.6g}",
            )


def _slopes(
    method: Method, labels: Tensor, inputs: dict[str, Tensor], name: str, gradient: Tensor | None
) -> tuple[float, float]:
    """The derivative of a loss along a direction of one of its inputs, by its gradient and by differences."""
    x = inputs[name].detach()
    direction = torch.randn(x.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    slope = 0.0 if gradient is None else float((gradient * direction).sum())
    ends = []
    with torch.no_grad():
        value = Hooks(method).loss(inputs["logits"], labels, sights=inputs)
        step = 1e-5 if value.dtype == torch.double else 0.01
        for sign in (1, -1):
            moved = inputs | {name: x + sign * step * direction}
            ends.append(float(Hooks(method).loss(moved["logits"], labels, sights=moved)))
    return slope, (ends[0] - ends[1]) / (2 * step)


def loss_prefers_the_truth(specimen: Specimen) -> None:
    """It is lower for scores that are right than for those that are wrong."""
    method = specimen.build()
    _, labels = example()
    truth = nn.functional.one_hot(labels.clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2).double()
    right, wrong = (float(loss_of(method, sign * (8 * truth - 4), labels)) for sign in (1, -1))
    specimen.require(
        right < wrong,
        f"loss does not prefer the truth: it is {right:.4g} for it and {wrong:.4g} for its reverse",
    )


def void_changes_nothing(specimen: Specimen) -> None:
    """Pixels that are void have no derivative: those that no other pixel's window reaches."""
    logits, labels = example()
    logits.requires_grad_()
    loss_of(specimen.build(), logits, labels).backward()
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
        loss = loss_of(method, logits, torch.full_like(labels, value))
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
            loss_of(method, logits, labels)
        except Exception:  # PyTorch's losses raise errors of several kinds
            continue
        sentence = f"loss takes the label {wrong} without a word, and there are {CLASSES} classes"
        specimen.require(False, f"{sentence}: begin with valid_pixels of common.labels, which refuses it")


def logits_that_are_not_finite_give_such_a_loss(specimen: Specimen) -> None:
    """Training then says at which iteration, instead of failing inside a decomposition."""
    logits, labels = example()
    for value in (torch.nan, torch.inf):
        loss = loss_of(specimen.build(), torch.full_like(logits, value), labels)
        specimen.require(
            not loss.isfinite(), f"loss is {loss.item():.4g} where logits are {value}: it hides them"
        )


def bfloat16_logits_are_computed_in_float32(specimen: Specimen) -> None:
    """Mixed precision gives the losses half precision."""
    method = specimen.build().float()
    logits, labels = example()
    halves = {"logits": logits.bfloat16()} | sights(method, labels, dtype=torch.bfloat16)
    singles = {key: x.float() if x.dtype == torch.bfloat16 else x for key, x in halves.items()}
    halves |= {"images": singles["images"]} if "images" in singles else {}
    half, single = (Hooks(method).loss(x["logits"], labels, sights=x) for x in (halves, singles))
    alike = half.dtype == torch.float32 and torch.allclose(half, single, rtol=1e-5, atol=1e-5)
    values = f"{half.item():.6g}, and {single.item():.6g} of the same in float32"
    specimen.require(alike, f"loss of bfloat16 logits is {values}: let it begin with logits.float()")


def what_is_prepared_is_the_same_each_time(specimen: Specimen) -> None:
    """In this process and in one that loads images, and alike for all images of a size."""
    if not prepares(specimen.kind):
        return
    _, labels = example()
    maps = [*labels.to(torch.uint8), torch.full(labels.shape[1:], VOID, dtype=torch.uint8)]
    samples = [Sample(pixels()[0], map) for map in maps]
    results = []
    for workers in (0, 1):
        augmented = Augmented(samples, v2.Identity(), 0, preparing(specimen.build().float()))
        keys = [[(position, position) for position in range(len(samples))]]
        results.append(next(Batches(loader(augmented, keys, workers)))[-1])
    specimen.require(
        torch.equal(*results), "prepare makes something else of the same labels in another process"
    )
