"""No data but what the tests write."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("VOC_ROOT", "SBD_ROOT", "CITYSCAPES_ROOT", "PASCAL_CONTEXT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "nowhere"))
