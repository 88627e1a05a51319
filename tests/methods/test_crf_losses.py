"""The energies of CRFs as losses, dense and in windows, against their definitions, pair by pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import entries, reading
from common.kernels.lattice import Lattice
from methods.base import Method, cross_entropy
from methods.dense_crf_loss import DenseCRFLoss, dense_crf_energy
from methods.gated_crf_loss import DEVIATIONS, GatedCRFLoss, gated_crf_energy
from tests.conftest import ROOT

K = 3
Energy = Callable[..., Tensor]


def example(h: int = 7, w: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with void at the top, and images."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, h, w, generator=generator, dtype=torch.double)
    labels = torch.randint(K, (2, h, w), generator=generator)
    labels[0, :2] = 255
    return logits, labels, 40 * torch.rand(2, 3, h, w, generator=generator, dtype=torch.double)


def pair_by_pair(
    probabilities: Tensor, labels: Tensor, colours: Tensor, sigma_xy: float, radius: float
) -> float:
    """The sum over all ordered pairs of pixels, but those of a pixel with itself."""
    total = 0.0
    h, w = labels.shape[1:]
    for image, y, x, v, u in itertools.product(range(len(labels)), range(h), range(w), range(h), range(w)):
        far = max(abs(y - v), abs(x - u)) > radius
        if far or (y, x) == (v, u) or 255 in (labels[image, y, x], labels[image, v, u]):
            continue
        square = ((y - v) ** 2 + (x - u) ** 2) / sigma_xy**2
        square += float((colours[image, :, y, x] - colours[image, :, v, u]).square().sum())
        alike = float(probabilities[image, :, y, x] @ probabilities[image, :, v, u])
        total += math.exp(-square / 2) * (1 - alike)
    return total


def test_windows_equal_the_definition() -> None:
    logits, labels, images = example()
    probabilities = logits.softmax(dim=1)
    scale = 0.3 * torch.tensor(DEVIATIONS, dtype=torch.double).view(3, 1, 1)
    expected = pair_by_pair(probabilities, labels, images / scale, 2.0, 3) / int((labels != 255).sum())
    actual = gated_crf_energy(probabilities, labels, images, radius=3, sigma_xy=2.0, sigma_rgb=0.3, stride=1)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_windows_larger_than_the_image_are_all_of_it() -> None:
    logits, labels, images = example(3, 4)
    near, far = (gated_crf_energy(logits.softmax(1), labels, images, radius, stride=1) for radius in (3, 9))
    torch.testing.assert_close(near, far)
    one = gated_crf_energy(torch.ones(1, K, 1, 1) / K, labels[1:, :1, :1], images[1:, :, :1, :1], stride=1)
    assert float(one) == 0


def test_a_dense_energy_equals_the_definition_with_the_kernel_of_the_lattice() -> None:
    logits, labels, images = example()
    h, w = labels.shape[1:]
    probabilities = logits.softmax(dim=1)
    places = torch.tensor([*itertools.product(range(h), range(w))], dtype=torch.double)
    expected = 0.0
    for image in range(2):
        points = torch.cat([places.flip(1) / 4, images[image].flatten(1).T / 30], dim=1)
        kernel = Lattice(points.unsqueeze(0)).filter(torch.eye(h * w, dtype=torch.double))
        valid = (labels[image] != 255).flatten()
        of_pixels = probabilities[image].flatten(1)[:, valid]
        expected += float((kernel[valid][:, valid] * (1 - of_pixels.T @ of_pixels)).sum()) / 2
    actual = dense_crf_energy(probabilities, labels, images, sigma_xy=4.0, sigma_rgb=30.0, stride=1)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("energy", [dense_crf_energy, gated_crf_energy])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_right(energy: Energy, stride: int) -> None:
    logits, labels, images = example()
    torch.autograd.gradcheck(
        lambda x: energy(x.softmax(1), labels, images, stride=stride) / 10,
        logits.requires_grad_(),
        fast_mode=True,
    )


@pytest.mark.parametrize("energy", [dense_crf_energy, gated_crf_energy])
def test_void_takes_no_part_also_where_only_a_piece_of_a_square_is_void(energy: Energy) -> None:
    logits, labels, images = example(8, 8)
    labels[1, 5, 3] = 255
    square = (slice(4, 6), slice(2, 4))
    first = energy(logits.softmax(1), labels, images, stride=2)
    logits[1][:, *square] += 3 * torch.randn(K, 2, 2, dtype=torch.double)
    torch.testing.assert_close(energy(logits.softmax(1), labels, images, stride=2), first)
    assert float(energy(logits.softmax(1), torch.full_like(labels, 255), images, stride=2)) == 0


@pytest.mark.parametrize("energy", [dense_crf_energy, gated_crf_energy])
def test_prefers_borders_where_colours_change(energy: Energy) -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 200
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    values = []
    for column in (4, 8, 12):
        guess = (torch.arange(16) >= column).long().expand(1, 16, 16)
        probabilities = functional.one_hot(guess, 2).movedim(-1, 1).float()
        values.append(float(energy(probabilities, labels, images, stride=2)))
    assert values[1] < 0.01 * min(values[0], values[2])


@pytest.mark.parametrize(
    ("entry", "energy", "weight"),
    [("dense-crf-loss", dense_crf_energy, 2e-9), ("gated-crf-loss", gated_crf_energy, 0.1)],
)
def test_entries_add_it_to_cross_entropy(entry: str, energy: Energy, weight: float) -> None:
    logits, labels, images = example(16, 20)
    config = reading.load([], base=ROOT / "config.yaml")
    method: Any = entries.method(config, entry, "digits").build(K, 1)
    value = method.loss(logits, labels, images)
    expected = cross_entropy(logits, labels) + weight * energy(logits.softmax(1), labels, images)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kind", [DenseCRFLoss, GatedCRFLoss])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": -1}, "weight must be a finite number and not negative, not -1"),
        ({"sigma_xy": 0}, "sigma_xy must be a finite number above 0, not 0"),
        ({"sigma_rgb": math.inf}, "sigma_rgb must be a finite number above 0, not inf"),
        ({"stride": 0}, "stride must be at least 1, not 0"),
    ],
)
def test_impossible_options_are_refused(kind: type[Method], options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(K, 1, **options)


@pytest.mark.parametrize("energy", [dense_crf_energy, gated_crf_energy])
def test_a_small_image_is_one_sentence(energy: Energy) -> None:
    with pytest.raises(ValueError, match=r"an image of \[3, 9\] cannot be made 4 times smaller"):
        energy(
            torch.zeros(1, K, 3, 9), torch.zeros(1, 3, 9, dtype=torch.long), torch.zeros(1, 3, 3, 9), stride=4
        )
