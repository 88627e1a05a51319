"""What a method makes of a network's output, and that it leaves what it gets as it is."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from common.datasets.split import Sample
from common.networks.hooks import Hooks, are_labels
from common.networks.sights import LOSSES
from common.networks.structured import refined
from common.training.batches import with_prepared
from common.training.contract.specimen import CLASSES, Specimen, example, grid, pixels, sights


def trains_and_predicts_with_a_network(specimen: Specimen) -> None:
    """The path that every stage takes: what a hook returns is what the next can work with."""
    model = specimen.model()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, 50, 70), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (2, 50, 70), generator=generator).to(torch.uint8)
    _, _, *prepared = with_prepared(Sample(images, labels), model.method)
    model.loss(images, labels, prepared=next(iter(prepared), None)).backward()
    for key, parameter in model.named_parameters():
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        specimen.require(finite, f"the gradient of its loss by {key} is not finite")
    model.eval()
    with torch.no_grad():
        refined(model.method, images, model.probabilities(images, model.method.refines))
        model.hooks.diagnostics()


def structure_gives_logits_on_the_grid_that_it_declares(specimen: Specimen) -> None:
    """Of any number of classes, with a gradient by the network's scores."""
    for num_classes in (2, 11, 21):
        images, features, unary = grid(5, 7, num_classes)
        logits = Hooks(specimen.build(num_classes)).structure(images, features, unary)
        (gradient,) = torch.autograd.grad(logits.square().sum(), unary)
        specimen.require(
            gradient.any(), "structure does not depend on the network's scores: its gradient is 0"
        )


def probabilities_and_refinements_sum_to_one(specimen: Specimen) -> None:
    """They are not negative, and do not depend on the other images of the batch; or they are labels."""
    method = specimen.build().float().eval()
    logits, _ = example()
    hooks, images = Hooks(method), pixels()
    probabilities = hooks.probabilities(logits.float())
    results = {"probabilities": probabilities, "refine": hooks.refine(images, probabilities)}
    for hook, result in results.items():
        if are_labels(result):  # the hook has looked at their values
            continue
        error = float((result.sum(dim=1) - 1).abs().max())
        specimen.require(error < 1e-4, f"the sums of {hook} over classes differ from one by {error:.2g}")
        specimen.require((result >= 0).all(), f"{hook} returns negative values, as {float(result.min()):.2g}")
    alone = method.refine(images[1:], probabilities[1:])
    together = results["refine"][1:]
    alike = torch.allclose(alone.double(), together.double(), atol=1e-5, rtol=0)
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
        seen = sights(method, labels, "auxiliary_loss")
        hooks.loss(logits.requires_grad_(), labels, "auxiliary_loss", seen)
        hooks.structure(*grid(4, 4))
        hooks.diagnostics()


def inputs_are_left_as_they_are(specimen: Specimen) -> None:
    """A hook that changes what it gets changes what the next one gets."""
    method = specimen.build().float().eval()
    logits, labels = example()
    given: dict[str, list[Tensor]] = {
        "structure": [x.detach().float() for x in grid(4, 4)],
        **{hook: [logits.float(), labels] for hook in LOSSES},
        "probabilities": [logits.float()],
        "refine": [pixels(), logits.float().softmax(dim=1)],
    }
    for hook, values in given.items():
        further = sights(method, labels, hook, torch.float32) if hook in LOSSES else {}
        inputs = [*values, *further.values()]
        before = [value.clone() for value in inputs]
        with torch.no_grad():
            getattr(method, hook)(*values, **further)
        same = all(map(torch.equal, before, inputs))
        specimen.require(same, f"{hook} changes its input in place: let it work on a copy")
