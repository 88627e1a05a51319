"""The command that times the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from common.stages import entry, kernels
from common.timing.kernels import families


def test_the_command(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(device: torch.device) -> dict:
        return families(device, [(1, 3, 5, 5)], [(1, 3, 40, 40)], [(1, 3, 60, 64)])

    monkeypatch.setattr(kernels, "families", small)
    file = tmp_path / "configuration.yaml"
    file.write_text(yaml.safe_dump(tiny))
    entry.enter(kernels, "kernels", "Times the kernels", ["--configfile", str(file), "--threads", "1"])
    page = Path(capsys.readouterr().out.strip())
    assert page == Path(tiny["results"]) / "kernels" / "kernels.md"
    assert {path.name for path in page.parent.iterdir()} == {
        "chain.csv", "rmi.csv", "densecrf.csv", "kernels.md",
    }  # fmt: skip
