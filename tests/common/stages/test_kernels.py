"""The command that times the kernels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from common.config.entries import Config
from common.stages import entry, kernels
from common.timing.cases import Family
from common.timing.kernels import rmi


def test_the_command(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(config: Config, device: torch.device) -> dict[str, Family]:
        return dict.fromkeys(kernels.NAMES, partial(rmi, sizes=[(1, 3, 40, 40)]))

    monkeypatch.setattr(kernels, "families", small)
    file = tmp_path / "configuration.yaml"
    file.write_text(yaml.safe_dump(tiny))
    call = ["--configfile", str(file), "--threads", "1", "--family", "rmi", "chain", "--quick"]
    entry.enter(kernels, "kernels", "Times the kernels", call)
    page = Path(capsys.readouterr().out.strip())
    assert page == Path(tiny["results"]) / "kernels/quick/kernels.md"
    assert {path.name for path in page.parent.iterdir()} == {"chain.csv", "rmi.csv", "kernels.md", "state"}
