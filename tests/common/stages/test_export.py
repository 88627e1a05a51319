"""The command that exports a run."""

from __future__ import annotations

from pathlib import Path

from common.config import reading
from common.runs import plan
from common.stages import prepare, train
from tests.conftest import ROOT, run


def test_the_command(tiny: dict, tmp_path: Path) -> None:
    config = reading.complete(tiny)
    (scored,) = plan.runs(config)
    prepare.prepare(scored.data)
    train.train(scored.training, plan.execution(config))
    arguments = ("common", "export", "--run", str(scored.training.folder))
    result = run(*arguments, str(tmp_path / "model.pt"), cwd=ROOT)
    assert "torchscript, the same as deeplabv3plus-test_resnet with ce, seed 0" in result.stdout
    assert "Warning" not in result.stderr
    assert (tmp_path / "model.pt").stat().st_size > 100_000
    result = run(*arguments, str(tmp_path / "model.bin"), cwd=ROOT, check=False)
    assert result.returncode == 2 and "end it with .pt2, .pt or .onnx, or give --format" in result.stderr
