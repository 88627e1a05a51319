"""The RMI loss against a direct evaluation of the published formula in float64."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from methods.base import cross_entropy
from methods.rmi import RMI, RMILoss


def published(
    logits: Tensor,
    labels: Tensor,
    radius: int = 3,
    pool: str = "average",
    size: int = 4,
    weight: float = 0.5,
    softmax: bool = False,
) -> Tensor:
    """The formula, written out: explicit windows, means, covariances, inverse and determinant."""
    logits = logits.double()
    n, k, h, w = logits.shape
    valid = labels != 255
    truth = torch.zeros_like(logits)
    for c in range(k):
        truth[:, c] = ((labels == c) & valid).double()
    probabilities = 1 / (1 + torch.exp(-logits))
    bce = -(truth * probabilities.log() + (1 - truth) * (1 - probabilities).log())
    bce = (bce * valid.unsqueeze(1)).sum() / (valid.sum() + 1)
    masked = probabilities * valid.unsqueeze(1) + 1e-6
    if softmax:
        bce = cross_entropy(logits, labels)
        masked = (probabilities * valid.unsqueeze(1)).clamp(min=1e-6)
    if size > 1 and pool == "interpolate":
        shape = (h // size, w // size)
        truth = functional.interpolate(truth, shape, mode="nearest")
        masked = functional.interpolate(masked, shape, mode="bilinear", align_corners=True)
    elif size > 1:
        padding = [size // 2] * 4

        def pooled(maps: Tensor) -> Tensor:
            blocks = functional.pad(maps, padding).unfold(2, size, size).unfold(3, size, size)
            return blocks.mean((4, 5)) if pool == "average" else blocks.amax((4, 5))

        truth, masked = pooled(truth), pooled(masked)
    total = torch.zeros((), dtype=torch.double)
    identity = 5e-4 * torch.eye(radius**2, dtype=torch.double)
    for c in range(k):
        for image in range(n):
            y, p = (
                maps[image, c].unfold(0, radius, 1).unfold(1, radius, 1).reshape(-1, radius**2).T
                for maps in (truth, masked)
            )
            y, p = y - y.mean(1, keepdim=True), p - p.mean(1, keepdim=True)
            inverse = torch.linalg.inv(p @ p.T + identity)
            conditional = y @ y.T - (y @ p.T) @ inverse @ (y @ p.T).T
            total = total + 0.5 * torch.logdet(conditional + identity) / radius**2 / n
    return weight * bce + (1 - weight) * total


def example(n: int = 2, k: int = 4, h: int = 33, w: int = 29, void: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, k, h, w, generator=generator, dtype=torch.double)
    logits = 4 * functional.avg_pool2d(logits, 5, 1, 2)  # neighbours are alike, as in images
    labels = torch.randint(k, (n, h // 4 + 1, w // 4 + 1), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :h, :w].clone()
    labels[torch.rand(n, h, w, generator=generator) < void] = 255
    return logits, labels


SETTINGS = [
    {},
    {"radius": 1},
    {"radius": 2, "pool_size": 1},
    {"radius": 4, "pool_size": 2},
    {"pool": "max"},
    {"pool": "max", "pool_size": 3},
    {"pool": "interpolate", "pool_size": 2},
    {"pool": "interpolate", "pool_size": 3},
    {"pool_size": 8, "radius": 2},
    {"radius": 5},
    {"weight": 0.0},
    {"weight": 1.0},
    {"softmax": True},
    {"softmax": True, "pool": "max"},
]


@pytest.mark.parametrize("void", [0.0, 0.3])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_equals_the_published_formula(options: dict, void: float) -> None:
    """In float32 values to 1e-5, gradients to 1e-3 of their norm."""
    logits, labels = example(void=void)
    arguments = {"size" if key == "pool_size" else key: value for key, value in options.items()}
    loss = RMILoss(4, **options)
    for dtype, tolerances in ((torch.double, (1e-9, 1e-6)), (torch.float, (1e-5, 1e-3))):
        x = logits.to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        actual, expected = loss(x, labels), published(exact, labels, **arguments)
        assert (actual - expected).abs() <= tolerances[0] * expected.abs()
        (actual,), (expected,) = torch.autograd.grad(actual, x), torch.autograd.grad(expected, exact)
        assert (actual - expected).norm() <= tolerances[1] * expected.norm()


@pytest.mark.parametrize("options", [{"pool_size": 2, "radius": 2}, {"pool_size": 1, "radius": 3}], ids=str)
def test_gradcheck(options: dict) -> None:
    logits, labels = example(1, 2, 9, 8)
    loss = RMILoss(2, **options)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())


def test_it_can_be_negative_and_falls_as_the_prediction_gets_better() -> None:
    _, labels = example(void=0)
    truth = functional.one_hot(labels, 4).permute(0, 3, 1, 2).double() * 2 - 1
    values = [RMILoss(4)(scale * truth, labels) for scale in (0.1, 1.0, 4.0, 8.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0


LABELS = ["blocks", "random", "one class", "all void", "almost void", "void images"]
LOGITS = ["random", "constant", "constant per class", "signs", "steps"]


def hostile(kind: str, n: int, k: int, h: int, w: int, generator: torch.Generator) -> Tensor:
    labels = torch.randint(k, (n, h // 5 + 1, w // 5 + 1), generator=generator)
    labels = labels.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, :h, :w].clone()
    if kind == "random":
        labels = torch.randint(k, (n, h, w), generator=generator)
    elif kind == "one class":
        labels.fill_(k - 1)
    elif kind == "all void":
        labels.fill_(255)
    elif kind == "almost void":
        labels[torch.rand(n, h, w, generator=generator) < 0.99] = 255
    elif kind == "void images":
        labels[0] = 255
    return labels


@settings(max_examples=500)
@given(
    n=st.integers(1, 2),
    k=st.integers(1, 5),
    h=st.integers(40, 49),
    w=st.integers(40, 57),
    labels=st.sampled_from(LABELS),
    logits=st.sampled_from(LOGITS),
    scale=st.sampled_from([1e-4, 1.0, 30.0, 1e4]),
    dtype=st.sampled_from([torch.double, torch.float, torch.bfloat16, torch.half]),
    autocast=st.booleans(),
    radius=st.integers(1, 5),
    pool=st.sampled_from(["average", "max", "interpolate"]),
    pool_size=st.integers(1, 8),
    weight=st.sampled_from([0.0, 0.5, 1.0]),
    softmax=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_hostile_inputs_stay_finite(
    n: int,
    k: int,
    h: int,
    w: int,
    labels: str,
    logits: str,
    scale: float,
    dtype: torch.dtype,
    autocast: bool,
    seed: int,
    **options: object,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = hostile(labels, n, k, h, w, generator)
    x = torch.randn(n, k, h, w, generator=generator)
    if logits == "constant":
        x = torch.ones_like(x)
    elif logits == "constant per class":
        x = x[:, :, :1, :1].expand_as(x).clone()
    elif logits == "signs":
        x = x.sign()
    elif logits == "steps":
        x = x[:, :, :, :1].round().expand_as(x).clone()
    x = (scale * x).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
        value = RMILoss(k, **options)(x, truth)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.isfinite() and gradient.isfinite().all()
    assert (gradient.movedim(1, -1)[truth == 255] == 0).all()


def test_compiles_without_a_graph_break() -> None:
    logits, labels = example()
    loss = RMILoss(4)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (compiled, loss):
        x = logits.clone().requires_grad_()
        gradients.append(torch.autograd.grad(run(x, labels), x)[0])
    torch.testing.assert_close(*gradients)


def test_terms_of_every_class_are_reported() -> None:
    logits, labels = example()
    method = RMI(4, 1, weight=0.0)
    assert method.diagnostics() == {}
    value = float(method.loss(logits, labels))
    terms = method.diagnostics()
    assert terms["rmi"] == pytest.approx(value)
    assert sum(terms[f"rmi_class_{c}"] for c in range(4)) == pytest.approx(value)


def test_another_void_label() -> None:
    logits, labels = example()
    other = torch.where(labels == 255, 3, labels)
    three = RMILoss(3, ignore_index=3)(logits[:, :3], other)
    expected = published(logits[:, :3], torch.where(other == 3, 255, other))
    torch.testing.assert_close(three, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"radius": 0}, "radius must be an integer from 1 to 10"),
        ({"radius": 2.5}, "radius must be an integer"),
        ({"pool": "median"}, "pool must be average, max or interpolate"),
        ({"pool_size": 9}, "pool_size must be an integer from 1 to 8"),
        ({"weight": 1.5}, "weight must be between 0 and 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RMILoss(**({"num_classes": 4} | options))


def test_wrong_shapes_are_one_sentence() -> None:
    logits, labels = example()
    with pytest.raises(ValueError, match=r"logits must be \[N, 5, H, W\]"):
        RMILoss(5)(logits, labels)
    with pytest.raises(ValueError, match="labels must be"):
        RMILoss(4)(logits, labels[:, 1:])
    with pytest.raises(ValueError, match="smaller than the radius"):
        RMILoss(4, radius=10)(logits, labels)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_a_gpu_is_not_waited_for(dtype: torch.dtype) -> None:
    logits, labels = (x.cuda() for x in example())
    logits = logits.to(dtype).requires_grad_()
    RMILoss(4)(logits, labels).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        RMILoss(4)(logits, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
