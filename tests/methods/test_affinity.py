"""The affinity field loss against its definition, pair by pair."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods.affinity import Affinity, affinity_field
from methods.base import cross_entropy


def example(k: int = 3, h: int = 4, w: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, k, h, w, generator=generator, dtype=torch.double)
    labels = torch.randint(k, (2, h, w), generator=generator)
    labels[0, 1, 1:3] = 255
    return logits.softmax(dim=1), labels


def pair_by_pair(probabilities: Tensor, labels: Tensor) -> float:
    n, k, h, w = probabilities.shape
    edges, others = [], []
    for image, y, x, label in itertools.product(range(n), range(h), range(w), range(k)):
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            v, u = y + down, x + right
            if (down, right) == (0, 0) or not (0 <= v < h and 0 <= u < w):
                continue
            own, other = int(labels[image, y, x]), int(labels[image, v, u])
            if 255 in (own, other):
                continue
            p = max(float(probabilities[image, label, y, x]), 1e-4)
            q = max(float(probabilities[image, label, v, u]), 1e-4)
            not_p, not_q = 1 - p + 1e-4, 1 - q + 1e-4
            divergence = q * math.log(q / p) + not_q * math.log(not_q / not_p)
            if (own == label) != (other == label):
                edges.append(max(0.0, 3 - divergence))
            else:
                others.append(divergence)
    return sum(sum(part) / len(part) for part in (edges, others) if part)


def test_equals_the_definition() -> None:
    probabilities, labels = example()
    assert float(affinity_field(probabilities, labels)) == pytest.approx(pair_by_pair(probabilities, labels))


def test_without_edges_only_the_rest_counts() -> None:
    probabilities, labels = example()
    labels = torch.ones_like(labels)
    assert float(affinity_field(probabilities, labels)) == pytest.approx(pair_by_pair(probabilities, labels))


def test_fades_in_the_course_of_training() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 32, 40, generator=generator, dtype=torch.double)
    labels = torch.randint(3, (1, 4, 5), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    method = Affinity(3, 1)
    plain = cross_entropy(logits, labels)
    smaller = functional.interpolate(logits, (4, 5), mode="bilinear", align_corners=True)
    field = affinity_field(smaller.softmax(1), labels[:, ::8, ::8])
    for progress, share in ((0.0, 1.0), (0.5, 20**-0.5), (1.0, 1 / 20)):
        method.progress = progress
        torch.testing.assert_close(method.loss(logits, labels), plain + share * field)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"margin": -1}, "margin must be"), ({"decay": 0.5}, "decay must be")]
)
def test_impossible_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Affinity(3, 1, **options)


def test_a_small_image_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="cannot be made 8 times smaller"):
        Affinity(3, 1).loss(torch.zeros(1, 3, 7, 9), torch.zeros(1, 7, 9, dtype=torch.long))
