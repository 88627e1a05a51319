"""Frank–Wolfe inside the network: the published layer, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods import crf_fw
from methods.crf_fw import simplex_projection
from methods.crfrnn_fw import FrankWolfeCRFRNN
from tests.methods.layers import has_right_derivatives
from tests.methods.test_crfrnn import CLASSES, NARROW, AllPairs, all_pairs, example


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters by sums over all pairs of pixels, where a lattice would approximate them."""
    monkeypatch.setattr(crf_fw, "_kernels", lambda images, _, *deviations: all_pairs(images, *deviations))


def layer(**options: object) -> FrankWolfeCRFRNN:
    """A layer whose matrices are not those that it starts with."""
    torch.manual_seed(1)
    result = FrankWolfeCRFRNN(CLASSES, 1, **NARROW | options).double()
    with torch.no_grad():
        for matrix in result.parameters():
            matrix += 0.2 * torch.randn(CLASSES, CLASSES)
    return result


def published(method: FrankWolfeCRFRNN, kernels: list[AllPairs], unary: Tensor) -> Tensor:
    """The updates as the authors' code has them: class weights, their sum, compatibility, a step."""
    n, k, h, w = unary.shape
    start = unary.softmax(dim=1).flatten(2)
    x = start
    regulariser, strength, step = method.solver_options
    for _ in range(method.iterations):
        messages = [kernel.filter(x.mT.flatten(0, 1)).view(n, h * w, k).mT for kernel in kernels]
        message = method.position_weights @ messages[0] + method.bilateral_weights @ messages[1]
        scores = (unary.flatten(2) + method.compatibility @ message) / strength
        if regulariser == "entropy":
            best = scores.softmax(dim=1)
        else:
            best = torch.stack([simplex_projection(image) for image in scores])
        x = x + step * (best - x)
    share = method.start_share
    return ((1 - share) * x + share * start + 1e-9).log().view(unary.shape)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "options", [{}, {"regulariser": "entropy", "strength": 0.7, "step": 0.5, "start_share": 0}]
)
def test_updates_are_the_published_ones(options: dict) -> None:
    images, unary = example()
    method = layer(**options)
    expected = published(method, all_pairs(images, *method.deviations), unary)
    torch.testing.assert_close(method.structure(images, unary, unary), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.usefixtures("exact")
def test_derivatives_of_scores_and_matrices() -> None:
    assert has_right_derivatives(layer(iterations=2), *example(3, 4))


@pytest.mark.parametrize("options", [{"strength": 0}, {"start_share": 1}, {"grid": 2}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrankWolfeCRFRNN(CLASSES, 1, **options)
