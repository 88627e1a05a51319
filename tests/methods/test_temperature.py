"""Temperature scaling, against the best temperature of many; by L-BFGS, as published, and by steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.config import reading
from common.config.entries import entry, settings
from common.config.settings import TrainingSettings, typed
from common.training.step import learning_rate
from methods.base import cross_entropy
from methods.temperature import Temperature


def example(truth: float, count: int = 4000, k: int = 5) -> tuple[Tensor, Tensor]:
    """Scores `[N, K, 1, 1]` in float64, which over `truth` are the logits of the labels `[N, 1, 1]`."""
    generator = torch.Generator().manual_seed(1)
    scores = 3 * truth * torch.randn(count, k, generator=generator, dtype=torch.double)
    labels = (scores / truth).softmax(1).multinomial(1, generator=generator)
    return scores[..., None, None], labels[..., None]


def brute(scores: Tensor, labels: Tensor) -> float:
    """The temperature of least cross-entropy of those between 1/8 and 8, in steps of 1 %."""
    tried = torch.linspace(-3, 3, 420, dtype=torch.double).exp2()
    flat, classes = scores.flatten(1), labels.flatten()
    return min(tried.tolist(), key=lambda t: functional.cross_entropy(flat / t, classes).item())


def structured(method: Temperature, scores: Tensor) -> Tensor:
    return method.structure(torch.empty(0), torch.empty(0), scores)


def test_scores_are_divided_and_keep_their_order() -> None:
    method = Temperature(5, 1)
    scores, _ = example(1)
    torch.testing.assert_close(structured(method, scores), scores)
    with torch.no_grad():
        method.log_temperature.fill_(2.5).log_()
    result = structured(method.double(), scores)
    torch.testing.assert_close(result, scores / 2.5)
    assert torch.equal(result.argsort(1), scores.argsort(1))
    assert method.diagnostics() == {"temperature": pytest.approx(2.5)}


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_its_minimum_is_the_best_temperature(truth: float) -> None:
    scores, labels = example(truth)
    method = Temperature(5, 1).double()
    search = torch.optim.LBFGS(method.parameters(), lr=0.5, max_iter=50, tolerance_grad=1e-10)

    def closure() -> Tensor:
        search.zero_grad()
        loss = method.loss(structured(method, scores), labels)
        loss.backward()
        return loss

    search.step(closure)
    assert method.diagnostics()["temperature"] == pytest.approx(brute(scores, labels), rel=6e-3)


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_entrys_settings_lead_there_on_batches(truth: float) -> None:
    """As many steps of such a size as `config.yaml` says, on batches of a fortieth of the pixels."""
    config = reading.complete(reading.load([], {"methods": ["temperature"]}))
    own = entry(config, "temperature", "digits")
    model = config["models"][0]
    training = typed(TrainingSettings, settings(config, "training", "digits", model, own))  # type: ignore[arg-type]
    scores, labels = example(truth)
    method, generator = Temperature(5, 1), torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW(method.parameters(), weight_decay=training.weight_decay)
    for iteration in range(training.iterations):
        optimizer.param_groups[0]["lr"] = learning_rate(training, iteration) * training.head_multiplier
        batch = torch.randint(len(scores), (100,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(structured(method, scores[batch].float()), labels[batch]).backward()
        optimizer.step()
    assert method.diagnostics()["temperature"] == pytest.approx(brute(scores, labels), rel=0.05)
