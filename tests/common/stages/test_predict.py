"""The command that predicts pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.config import reading
from common.runs import plan
from common.stages import prepare, train
from tests.conftest import ROOT, run


def test_the_command(tiny: dict, tmp_path: Path) -> None:
    config = reading.complete(tiny)
    (scored,) = plan.runs(config)
    prepare.prepare(scored.data)
    train.train(scored.training, plan.execution(config))
    arguments = (
        "common",
        "predict",
        "--run",
        str(scored.training.folder),
        "--device",
        "cpu",
        "--threads",
        "1",
    )
    picture, broken = tmp_path / "picture.png", tmp_path / "broken.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(picture)
    broken.write_bytes(b"no picture")
    output = tmp_path / "out"
    result = run(*arguments, str(picture), str(broken), "--output", str(output), cwd=ROOT, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "1 predicted, 0 were there already" in result.stdout
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.startswith(f"structseg: {broken} cannot be read as a picture")
    assert [p.name for p in output.glob("*/*.png")] == 2 * [picture.name]
