"""Small datasets that the tests of several rooms read, and a server that has them."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import methods
from common.config import method_code
from common.config.method_facts import method_facts
from common.datasets import load, names
from common.datasets.camvid import SEGNET
from common.downloads import http
from tests.common.datasets import layouts
from tests.common.downloads.server import Server, packed


@pytest.fixture
def camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small CamVid in the layout of the SegNet tutorial."""
    monkeypatch.delenv("CAMVID_ROOT", raising=False)
    return layouts.write_camvid(tmp_path / "CamVid")


@pytest.fixture
def empty_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of all datasets, which has none."""
    for name in names():
        monkeypatch.delenv(getattr(load(name), "environment", "") or "SBD_ROOT", raising=False)
    monkeypatch.setenv("STRUCTSEG_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, empty_data: Path) -> Iterator[Server]:
    """A running server; failures are not waited for."""
    monkeypatch.setattr(http, "PAUSE", 0.0)
    monkeypatch.setattr(http, "CHUNK", 512)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def voc_files(tmp_path: Path) -> dict[str, bytes]:
    """VOC and SBD as they are published."""
    return {
        "VOCtrainval_11-May-2012.tar": packed(layouts.write_voc(tmp_path / "voc"), "tar"),
        "benchmark.tgz": packed(layouts.write_sbd(tmp_path / "sbd"), "gztar"),
    }


@pytest.fixture
def camvid_files(tmp_path: Path) -> dict[str, bytes]:
    """The SegNet tutorial as GitHub packs it."""
    name = SEGNET[0].name
    layouts.write_camvid(tmp_path / "tutorial" / name.removesuffix(".zip") / "CamVid")
    return {name: packed(tmp_path / "tutorial", "zip")}


OwnMethod = Callable[[str], str]
"""Writes a module of `methods/` with some text, and gives its name."""


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnMethod]:
    """Adds modules to a copy of `methods/`, which this process takes for the real one until the test ends."""
    folder = tmp_path / "methods"
    shutil.copytree(Path(methods.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(methods, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(methods, "__path__", [str(folder)])
    monkeypatch.setattr(method_code, "METHODS", folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        """As in a new process."""
        sys.modules.pop("methods.own", None)
        method_code.code_digest.cache_clear()
        method_facts.cache_clear()

    def write(text: str) -> str:
        (folder / "own.py").write_text(text)
        forget()
        return "own"

    yield write
    forget()
