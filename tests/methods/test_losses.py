"""Losses that a library has, or that follow from cross-entropy: pyramid, dice, lovasz; and labels of all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import entries, reading
from common.labels import valid_pixels
from methods.active_boundary import active_boundary_loss
from methods.affinity import Affinity, affinity_field
from methods.base import Method, cross_entropy
from methods.bce import binary_cross_entropy
from methods.boundary_loss import boundary_loss
from methods.dense_crf_loss import dense_crf_energy
from methods.dice import Dice
from methods.gated_crf_loss import gated_crf_energy
from methods.jaccard import Jaccard
from methods.lovasz import Lovasz
from methods.pyramid import Pyramid
from methods.rmi import RMILoss
from tests.conftest import ROOT


def example(void: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 8, 12, generator=generator)
    labels = torch.randint(3, (2, 8, 12), generator=generator)
    if void:
        labels[0, :2] = 255
    return logits, labels


def test_pyramid_is_the_mean_over_scales() -> None:
    logits, labels = example()
    expected = cross_entropy(logits, labels)
    for h, w in ((2, 3), (4, 6), (6, 9)):
        rows, columns = ([side * i // small for i in range(small)] for side, small in ((8, h), (12, w)))
        smaller = functional.interpolate(logits, (h, w), mode="bilinear", align_corners=False)
        expected = expected + cross_entropy(smaller, labels[:, rows][:, :, columns])
    torch.testing.assert_close(Pyramid(3, 1).loss(logits, labels), expected / 4)


def test_pyramid_refuses_what_it_cannot_shrink() -> None:
    with pytest.raises(ValueError, match="cannot be made 4 times smaller"):
        Pyramid(3, 1).loss(torch.zeros(1, 3, 3, 9), torch.zeros(1, 3, 9, dtype=torch.long))


def test_dice_equals_its_formula() -> None:
    logits, labels = example()
    valid = labels != 255
    probabilities = logits.softmax(dim=1).movedim(1, -1)[valid]
    truth = functional.one_hot(labels[valid], 3)
    ratio = 2 * (probabilities * truth).sum(0) / (probabilities.sum(0) + truth.sum(0))
    torch.testing.assert_close(Dice(3, 1).loss(logits, labels), (1 - ratio).mean())


def test_lovasz_is_one_minus_iou_of_sure_predictions() -> None:
    _, labels = example()
    guess = labels.roll(1, dims=2).clamp(max=2)
    logits = 200.0 * functional.one_hot(guess, 3).movedim(-1, 1)
    valid = labels != 255
    ious = []
    for label in range(3):
        truth, predicted = labels[valid] == label, guess[valid] == label
        ious.append(((truth & predicted).sum() / (truth | predicted).sum()).item())
    assert float(Lovasz(3, 1).loss(logits, labels)) == pytest.approx(1 - sum(ious) / 3, abs=1e-5)


def defined_lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Algorithm 1 of the paper, class by class, in float64."""
    valid = labels != 255
    probabilities = logits.double().softmax(dim=1).movedim(1, -1)[valid]
    losses = []
    for label in labels[valid].unique():
        truth = (labels[valid] == label).double()
        errors, order = (truth - probabilities[:, label]).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        losses.append(torch.dot(errors, jaccard.diff(prepend=jaccard.new_zeros(1))))
    return sum(losses, start=logits.sum() * 0) / max(1, len(losses))


@pytest.mark.parametrize(
    "case", ["as it comes", "a class is missing", "errors are equal", "void", "one pixel"]
)
def test_lovasz_equals_its_definition(case: str) -> None:
    """Its derivative, too, but for errors that are equal, whose order is anybody's."""
    logits, labels = example()
    if case == "a class is missing":
        labels[labels == 1] = 2
    elif case == "errors are equal":
        logits = logits.round()
    elif case == "void":
        labels.fill_(255)
    elif case == "one pixel":
        labels.fill_(255)[1, 3, 5] = 2
    leaves = [x.requires_grad_() for x in (logits.clone(), logits.double())]
    actual, expected = Lovasz(3, 1).loss(leaves[0], labels), defined_lovasz(leaves[1], labels)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(x, leaf)[0] for x, leaf in zip((actual, expected), leaves)]
    if case != "errors are equal":
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=1e-8)


def test_lovasz_has_derivatives_of_all_kinds() -> None:
    logits, labels = example()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))

    def function(x: Tensor) -> Tensor:
        return Lovasz(3, 1).loss(x, labels)

    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    along = torch.func.jvp(function, (logits,), (direction,))[1]
    torch.testing.assert_close((gradient * direction).sum(), along, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.func.grad(function)(logits), gradient)
    second = torch.autograd.functional.hvp(function, logits, direction)[1]
    other = torch.func.jvp(torch.func.grad(function), (logits,), (direction,))[1]
    assert second.norm() > 1e-3
    torch.testing.assert_close(second, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [Dice, Lovasz])
def test_can_be_mixed_with_cross_entropy(kind: type[Method]) -> None:
    logits, labels = example()
    pure, mixed = kind(3, 1).loss(logits, labels), kind(3, 1, weight=0.25).loss(logits, labels)
    torch.testing.assert_close(mixed, 0.25 * pure + 0.75 * cross_entropy(logits, labels))
    with pytest.raises(ValueError, match="weight must be between 0 and 1"):
        kind(3, 1, weight=2)


@pytest.mark.parametrize(("entry", "kind"), [("ce+lovasz", Lovasz), ("ce+dice", Dice)])
def test_entries_are_half_cross_entropy(entry: str, kind: type[Method]) -> None:
    """As their authors, or those who made them common, use them; the pure ones keep their own names."""
    logits, labels = example()
    config = reading.load([], base=ROOT / "config.yaml")
    loss = entries.method(config, entry, "digits").build(3, 1).loss(logits, labels)
    pure = kind(3, 1).loss(logits, labels)
    torch.testing.assert_close(loss, (pure + cross_entropy(logits, labels)) / 2)
    alone = entries.method(config, entry.partition("+")[2], "digits").build(3, 1)
    torch.testing.assert_close(alone.loss(logits, labels), pure)
    comparison = reading.load([ROOT / "workflow/presets/comparison.yaml"], base=ROOT / "config.yaml")
    assert entry in comparison["methods"]


IMAGES = torch.zeros(2, 3, 8, 12)
LOSSES = {
    "cross-entropy": cross_entropy,
    "binary cross-entropy": binary_cross_entropy,
    "rmi": RMILoss(3, radius=2, pool_size=1),
    "rmi with a softmax": RMILoss(3, radius=2, pool_size=1, softmax=True),
    "affinity": Affinity(3, 1).loss,
    "an affinity field": lambda logits, labels: affinity_field(logits.softmax(1), labels),
    "pyramid": Pyramid(3, 1).loss,
    "lovasz": Lovasz(3, 1).loss,
    "lovasz with cross-entropy": Lovasz(3, 1, weight=0.5).loss,
    "dice": Dice(3, 1).loss,
    "dice with cross-entropy": Dice(3, 1, weight=0.5).loss,
    "jaccard": Jaccard(3, 1).loss,
    "active boundary": lambda logits, labels: active_boundary_loss(logits, labels, torch.ones(2, 8, 12)),
    "boundary": lambda logits, labels: boundary_loss(logits.softmax(1), labels, torch.ones(2, 3, 8, 12)),
    "the energy of a dense crf": lambda logits, labels: dense_crf_energy(logits.softmax(1), labels, IMAGES),
    "the energy of a gated crf": lambda logits, labels: gated_crf_energy(logits.softmax(1), labels, IMAGES),
}


@pytest.mark.parametrize("wrong", [-1, -100, 3, 254, 256, 10**6])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_labels_that_are_no_class_are_refused(loss: Callable[[Tensor, Tensor], object], wrong: int) -> None:
    """Of all losses in the same words; several took them for void."""
    logits, labels = example()
    labels[1, 3, 5] = wrong
    with pytest.raises(ValueError, match=f"^labels must be in 0..2, or 255 for void, and one is {wrong}$"):
        loss(logits, labels)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_labels_that_are_no_integers_are_refused(
    loss: Callable[[Tensor, Tensor], object], kind: torch.dtype
) -> None:
    logits, labels = example()
    with pytest.raises(ValueError, match="^labels must be integers, not (float|bfloat|complex)"):
        loss(logits, labels.to(kind))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_labels_may_be_integers_of_any_kind(
    loss: Callable[[Tensor, Tensor], object], kind: torch.dtype
) -> None:
    logits, labels = example()
    torch.testing.assert_close(loss(logits, labels.to(kind)), loss(logits, labels))


def test_another_label_can_be_void() -> None:
    logits, labels = example()
    expected = RMILoss(3, radius=2, pool_size=1)(logits, labels)
    for void in (254, -1):
        loss = RMILoss(3, radius=2, pool_size=1, ignore_index=void)
        torch.testing.assert_close(loss(logits, labels.where(labels != 255, void)), expected)
        with pytest.raises(ValueError, match=f"^labels must be in 0..2, or {void} for void, and one is 255$"):
            loss(logits, labels)
    assert valid_pixels(torch.tensor([0, 1, 2]), 3, void=1).tolist() == [True, False, True]
    assert valid_pixels(torch.zeros(0, 2, 2, dtype=torch.long), 3).shape == (0, 2, 2)


def test_a_compiled_loss_refuses_them_too() -> None:
    logits, labels = example()
    compiled = torch.compile(cross_entropy, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), cross_entropy(logits, labels))
    labels[0, 7, 7] = 7
    with pytest.raises(RuntimeError, match="labels must be in 0..2, or 255 for void"):
        compiled(logits, labels)


@pytest.mark.gpu
def test_a_gpu_refuses_them_without_being_waited_for() -> None:
    """In a process of its own, which does not survive it."""
    code = (
        "import torch; from methods.base import cross_entropy; "
        "logits = torch.zeros(1, 3, 8, 8, device='cuda', requires_grad=True); "
        "labels = torch.zeros(1, 8, 8, dtype=torch.long, device='cuda'); "
        "torch.cuda.set_sync_debug_mode('error'); "
        "cross_entropy(logits, labels).backward(); labels[0, 0, 0] = 7; cross_entropy(logits, labels); "
        "print('went on'); torch.cuda.set_sync_debug_mode('default'); torch.cuda.synchronize()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode and ended.stdout == "went on\n"
    assert "labels must be in 0..2, or 255 for void" in ended.stderr or "device-side assert" in ended.stderr
