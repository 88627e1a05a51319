"""The benchmark of the kernels: what it compares computes the same, and what it writes can be read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from common.timing import kernel_tables, kernels, published_algorithms
from methods.ddcrf import dual_decomposition_reference
from methods.rmi import RMILoss


@pytest.mark.parametrize(("h", "w"), [(4, 7), (5, 1)])
def test_the_loop_over_steps_computes_the_same(h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        [(2, 3, h, w)] + [(2, 3, 3, h, max(0, w - g)) for g in (1, 2)] + [(2, 3, 3, h - g, w) for g in (1, 2)]
    )
    unary, *scores = (torch.randn(x, generator=generator, dtype=torch.double) for x in shapes)
    actual = published_algorithms.per_step_loop(unary, scores[:2], scores[2:], iterations=3, gamma=1.5)
    expected = dual_decomposition_reference(unary, scores[:2], scores[2:], iterations=3, gamma=1.5).logits
    torch.testing.assert_close(actual, expected)


def test_the_direct_rmi_computes_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 33, 29, generator=generator, dtype=torch.double)
    labels = torch.randint(3, (2, 33, 29), generator=generator)
    labels[0, :4] = 255
    torch.testing.assert_close(published_algorithms.direct_rmi(logits, labels), RMILoss(3)(logits, labels))


def test_writes_tables_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "copy_speed", lambda device: 1e9)
    device = torch.device("cpu")
    families = kernels.families(device, [(2, 5, 9, 9)], [(1, 3, 40, 40)], [(2, 3, 60, 64)])
    kernel_tables.write(tmp_path, families, device)
    for family, baseline, best in (
        ("chain", "loop over steps", "kernels"),
        ("rmi", "direct, all in float64", "ours"),
    ):
        table = pd.read_csv(tmp_path / f"{family}.csv").set_index("version")
        assert (table[["forward_ms", "backward_ms", "kept_bytes"]] > 0).all(axis=None)
        assert table.index[-1] == baseline and table.loc[baseline, "speed_up"] == 1
        assert table.loc[best, "kept_bytes"] < table.loc[baseline, "kept_bytes"]
    table = pd.read_csv(tmp_path / "densecrf.csv").set_index("version")
    assert table["speed_up"].iloc[-1] == 1 and table.index[-1].startswith("pydensecrf, single images")
    assert (table["image_ms"] > 0).all() and (table["agreement"] > 0.999).all()
    page = (tmp_path / "kernels.md").read_text()
    assert "## chain" in page and "| 2, 5, 9, 9 " in page and "## rmi" in page
