"""What damaged files contain, and the results that have them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.config.entries import Config
from common.files import write_json
from common.runs.benchmark import Benchmark
from common.runs.jobs import TrainedRun
from common.tables.frames import read_csv
from tests.common.commands import status_of
from tests.synthetic import rewrite

MODEL = "deeplabv3plus-test_resnet"
METHODS = ["ce", "bce", "rmi", "dice", "crf-1"]


def run_of(benchmark: Benchmark, method: str) -> TrainedRun:
    (run,) = (run for run in benchmark.runs if run.method == method)
    assert isinstance(run, TrainedRun)
    return run


def command(config: Config, verb: str, *arguments: str) -> int:
    """Runs a stage by a file of its configuration, beside its results; returns its exit status."""
    file = Path(config["results"]) / "config.json"
    if not file.exists():
        write_json(file, config)
    return status_of(verb, "--configfile", str(file), *arguments)


def board(benchmark: Benchmark) -> Any:
    return read_csv(benchmark.outputs.results / "leaderboard.csv").set_index("method")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def archive(content: bytes = b"", name: str = "names.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def huge_picture() -> bytes:
    """A picture that claims to have 1.2 gigapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 20_000, 8, 3, 0, 0, 0)
    return picture()[:12] + header + struct.pack(">I", zlib.crc32(header)) + picture()[33:]


def huge_array() -> bytes:
    """An archive with an array that claims to have 80 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    return archive(header.getvalue())


def torch_file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "a number": lambda _: b"5",
    "an object": lambda _: b"{}",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "half of it": lambda content: content[: len(content) // 2],
    "all but its end": lambda content: content[:-20],
    "all but its beginning": lambda content: content[20:],
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "a deep list": lambda _: b"[" * 100_000,
    "a deep value": lambda _: b'{"method_options": {"x": ' + b"[" * 100_000,
    "no text": lambda _: b"\xff\xfe\x00",
    "a picture": lambda _: picture(),
    "an array": lambda _: array(),
    "an archive": lambda _: archive(),
    "a huge array": lambda _: huge_array(),
    "a bomb": lambda _: archive(bytes(10**7)),
    "a file of torch": lambda _: torch_file(5),
    "an object of torch": lambda _: torch_file({"network": {}}),
}
"""What a file may contain instead, from what it should."""


def put(path: Path, kind: str) -> None:
    """Damages a file: it becomes a folder, or gets one of `CONTENTS`."""
    content = path.read_bytes()
    if kind == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(CONTENTS[kind](content))


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Changes a record, and its checksum if a record can have such values."""
    try:
        rewrite(path, lambda content: content.update(changes))
    except ValueError:  # NaN and infinities
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
