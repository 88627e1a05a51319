"""What a machine does not have is refused, and the refusal is a sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from common.errors import OutOfMemory
from common.failures import explained
from common.machine import main_memory

PARTS = 8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises more memory than there is")
def test_memory_that_the_machine_does_not_have_is_refused() -> None:
    """Nothing is written to it: Linux alone would grant it, part by part."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        main_memory.limit()
        parts = []
        try:
            for _ in range(2 * PARTS):
                parts.append(torch.empty(main_memory.total() // PARTS, dtype=torch.uint8))
        except RuntimeError as error:
            sentence = explained(error, "training a model", "a smaller training.batch_size")
            os.write(writing, f"{len(parts)} {isinstance(sentence, OutOfMemory)} {sentence}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        count, known, sentence = file.read().split(" ", 2)
    os.waitpid(pid, 0)
    assert 0 < int(count) < PARTS and known == "True"
    assert sentence == (
        "the machine's memory is too small for training a model: use a smaller training.batch_size, or a "
        "machine with more memory; or set resources.mem_mb higher, or run less at a time"
    )


@pytest.mark.parametrize("lines", ["0::/job/step\n", "5:cpu,memory:/job/step\n4:cpuset:/\n"])
def test_a_container_has_what_it_is_granted(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, file = (tmp_path, "memory.max") if "::" in lines else (tmp_path / "memory", "memory.limit_in_bytes")
    (root / "job/step").mkdir(parents=True)
    (root / "job/step" / file).write_text("max\n")
    (root / "job" / file).write_text(f"{2**20}\n")
    read_text = Path.read_text
    known = {Path("/proc/self/cgroup"): lines, Path("/proc/meminfo"): "MemTotal: 9 kB\nSwapTotal: 3 kB\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: known.get(path) or read_text(path, *a, **k))
    monkeypatch.setattr(main_memory, "GROUPS", tmp_path)
    assert main_memory.total() == 2**20 + 3 * 1024
