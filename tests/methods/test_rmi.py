"""The RMI loss against a direct evaluation of the published formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods.rmi import RMILoss


def published(
    logits: Tensor,
    labels: Tensor,
    radius: int = 3,
    pool: str = "average",
    size: int = 4,
    weight: float = 0.5,
    ignore_index: int = 255,
) -> Tensor:
    """The formula, written out: explicit windows, means, covariances, inverse and determinant."""
    logits = logits.double()
    n, k, h, w = logits.shape
    valid = labels != ignore_index
    truth = torch.zeros_like(logits)
    for c in range(k):
        truth[:, c] = ((labels == c) & valid).double()
    probabilities = 1 / (1 + torch.exp(-logits))
    bce = -(truth * probabilities.log() + (1 - truth) * (1 - probabilities).log())
    bce = (bce * valid.unsqueeze(1)).sum() / (valid.sum() + 1)
    masked = probabilities * valid.unsqueeze(1) + 1e-6
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
    {"weight": 0.0},
    {"weight": 1.0},
]


@pytest.mark.parametrize("void", [0.0, 0.3])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_equals_the_published_formula(options: dict, void: float) -> None:
    logits, labels = example(void=void)
    given = {"size" if key == "pool_size" else key: value for key, value in options.items()}
    expected = published(logits, labels, **given)
    loss = RMILoss(4, **options)
    torch.testing.assert_close(loss(logits, labels), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        loss(logits.float(), labels).double(),
        published(logits.float(), labels, **given),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("options", [{}, {"pool": "max"}, {"pool": "interpolate", "radius": 2}], ids=str)
def test_the_gradient_is_that_of_the_published_formula(options: dict) -> None:
    logits, labels = example()
    expected = torch.autograd.grad(published(logits.requires_grad_(), labels, **options), logits)[0]
    actual = torch.autograd.grad(RMILoss(4, **options)(logits, labels), logits)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-10)
    single = logits.detach().float().requires_grad_()
    actual = torch.autograd.grad(RMILoss(4, **options)(single, labels), single)[0]
    assert (actual - expected).norm() < 1e-3 * expected.norm()


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


@pytest.mark.parametrize("case", ["all void", "one class", "constant", "huge"])
def test_hostile_inputs_stay_finite(case: str) -> None:
    logits, labels = example()
    logits = logits.float()
    if case == "all void":
        labels = torch.full_like(labels, 255)
    elif case == "one class":
        labels = torch.zeros_like(labels)
    elif case == "constant":
        logits = torch.zeros_like(logits)
    else:
        logits = logits.sign() * 1e4
    logits.requires_grad_()
    value = RMILoss(4)(logits, labels)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


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
