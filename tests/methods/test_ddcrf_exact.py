"""DD-CRF with exact inference, against all labellings of small grids."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor

from methods import ddcrf_exact
from methods.ddcrf import DDCRF
from methods.ddcrf_exact import DDCRFExact, best_labelling, exchanged

pytest.importorskip("pytoulbar2", reason="it is in requirements-extra.txt")


def problem(k: int, h: int, w: int, gaps: int, seed: int = 0) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Scores of one image in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.double)

    horizontal = [draw(k, k, h, max(0, w - gap)) for gap in range(1, gaps + 1)]
    return draw(k, h, w), horizontal, [draw(k, k, max(0, h - gap), w) for gap in range(1, gaps + 1)]


def score(labels: Tensor, unary: Tensor, horizontal: list[Tensor], vertical: list[Tensor]) -> float:
    """That of a labelling `[h, w]`, cell by cell and edge by edge."""
    h, w = labels.shape
    total = 0.0
    for r, c in itertools.product(range(h), range(w)):
        total += float(unary[labels[r, c], r, c])
        for gap, (across, down) in enumerate(zip(horizontal, vertical), 1):
            if c + gap < w:
                total += float(across[labels[r, c], labels[r, c + gap], r, c])
            if r + gap < h:
                total += float(down[labels[r, c], labels[r + gap, c], r, c])
    return total


@pytest.mark.parametrize(("k", "h", "w", "gaps"), [(2, 3, 3, 2), (3, 2, 3, 1), (3, 1, 4, 2), (4, 1, 1, 2)])
def test_no_labelling_has_a_higher_score(k: int, h: int, w: int, gaps: int) -> None:
    scores = problem(k, h, w, gaps)
    every = [torch.tensor(x).view(h, w) for x in itertools.product(range(k), repeat=h * w)]
    best = max(every, key=lambda labels: score(labels, *scores))
    labels = best_labelling(*scores, seconds=60)
    assert labels is not None and torch.equal(labels, best)


def test_what_cannot_be_proven_in_time_is_not_claimed() -> None:
    assert best_labelling(*problem(8, 14, 14, 2), seconds=1) is None, "noise that no bound is near of"


def test_two_labels_change_places() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    own = logits.argmax(1)
    assert torch.equal(exchanged(logits, own, own), logits)
    best = (own + torch.tensor([[0, 1, 2, 3, 0]])) % 4
    result = exchanged(logits, own, best)
    assert torch.equal(result.argmax(1), best)
    assert torch.equal(result.sort(1).values, logits.sort(1).values)
    assert torch.equal(result[..., 0], logits[..., 0])


def pair(size: int = 6) -> tuple[DDCRF, DDCRFExact, tuple[Tensor, Tensor, Tensor]]:
    """Both methods with the same weights, so large that their labellings differ, and what they look at."""
    built: list[DDCRF] = []
    for kind in (DDCRF, DDCRFExact):
        torch.manual_seed(0)
        built.append(kind(3, 4).double())
        for layer in (built[-1].left, built[-1].right):
            torch.nn.init.normal_(layer.weight)
    images, features, unary = (
        torch.empty(2, 3, size, size),
        torch.randn(2, 4, size, size),
        torch.randn(2, 3, size, size),
    )
    plain, exact = built
    assert isinstance(exact, DDCRFExact)
    return plain, exact, (images, features.double(), unary.double())


def test_it_is_trained_as_ddcrf_is() -> None:
    plain, exact, seen = pair()
    assert torch.equal(plain.structure(*seen), exact.structure(*seen))
    assert exact.diagnostics() == plain.diagnostics() == {}
    assert plain.state_dict().keys() == exact.state_dict().keys()


def test_it_is_scored_by_the_best_labelling(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, exact, seen = (x.eval() if isinstance(x, DDCRF) else x for x in pair())
    own, best = plain.structure(*seen), exact.structure(*seen)
    told = exact.diagnostics()
    assert told.items() > plain.diagnostics().items(), "the certificate is that of the decomposition"
    same = (own.argmax(1) == best.argmax(1)).double().mean()
    assert told["proven"] == 1 and told["same_as_best"] == pytest.approx(float(same)) and same < 1
    assert 0 < told["best_above_per_cell"] <= told["gap_per_cell"]
    monkeypatch.setattr(ddcrf_exact, "best_labelling", lambda *_: None)
    assert torch.equal(exact.structure(*seen), own), "what is not proven stays"
    unproven = {"proven": 0, "best_above_per_cell": 0, "same_as_best": 1}
    assert exact.diagnostics() == plain.diagnostics() | unproven


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytoulbar2", None)
    with pytest.raises(ValueError, match="package pytoulbar2: pip install -r requirements-extra.txt"):
        best_labelling(*problem(2, 1, 2, 1), seconds=1)
