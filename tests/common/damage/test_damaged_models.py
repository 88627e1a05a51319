"""Models and checkpoints that are not as they were written: they are noticed and made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from common.config.entries import Config
from common.errors import Damaged
from common.failures import Failure
from common.runs import plan
from common.runs.benchmark import Benchmark
from common.runs.records import TrainedModel, state_sha256
from common.runs.soundness import quick
from common.stages import evaluate, train
from common.training.checkpoints import Checkpoint, Checkpoints, Position
from tests.common.damage.contents import CONTENTS, put, run_of


def test_every_flipped_bit_of_a_model_is_noticed(benchmark: Benchmark) -> None:
    training = run_of(benchmark, "bce").training
    content = training.file.read_bytes()
    whole = TrainedModel.read(training.file, training)
    silent = []
    for place in range(0, len(content), max(1, len(content) // 120)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        training.file.write_bytes(flipped)
        try:
            read = TrainedModel.read(training.file, training)
        except Damaged as error:
            assert str(training.file) in str(error) and "\n" not in str(error)
            continue
        silent.append(place)  # in the padding of the archive, which means nothing
        assert state_sha256(read.network, read.method_state) == whole.state_sha256
        assert read.facts == whole.facts
    assert len(silent) < 30


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder", "another weight", "another training"])
def test_a_damaged_model_is_renamed_and_made_again(kind: str, config: Config, benchmark: Benchmark) -> None:
    run, execution = run_of(benchmark, "bce"), plan.execution(config)
    before = TrainedModel.read(run.training.file, run.training)
    for path in (run.training.file, run.training.state / "finished.pt"):
        if kind == "another training":
            shutil.copy(run_of(benchmark, "rmi").training.file, path)
        elif kind == "another weight":
            content = torch.load(path, weights_only=True)
            next(iter(content["network"].values())).view(-1)[0] += 1
            torch.save(content, path)
        else:
            put(path, kind)
    with pytest.raises(
        Damaged, match=r"model\.pt .*: it was renamed to model\.pt\.damaged, and the next .snake"
    ) as error:
        evaluate.evaluate(run, execution)
    assert "\n" not in str(error.value) and Failure.read(run.error).kind == "damaged"
    assert not run.training.file.exists()
    train.train(run.training, execution)
    again = TrainedModel.read(run.training.file, run.training)
    assert again.state_sha256 == before.state_sha256, "it was trained again"
    assert (run.training.state / "finished.pt.damaged").exists()
    evaluate.evaluate(run, execution)
    assert not quick(run) and not run.error.exists()


def test_a_lost_model_comes_back_from_its_second_name(config: Config, benchmark: Benchmark) -> None:
    run = run_of(benchmark, "bce")
    put(run.training.file, "noise")
    with pytest.raises(Damaged):
        evaluate.evaluate(run, plan.execution(config))
    written = TrainedModel.read(run.training.state / "finished.pt").provenance
    train.train(run.training, plan.execution(config))
    assert TrainedModel.read(run.training.file, run.training).provenance == written, "nothing was trained"


@pytest.mark.parametrize("kind", [*CONTENTS, "a folder", "a flipped bit"])
def test_a_damaged_checkpoint_is_left_out(
    kind: str, benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    training = run_of(benchmark, "bce").training
    state = torch.load(training.file, weights_only=True)["network"]
    checkpoints = Checkpoints(tmp_path / "state", training.digest)
    for iteration in (2, 4):
        checkpoints.save(Checkpoint(Position(iteration), state, {}, {}))
    assert checkpoints.latest().position.iteration == 4
    if kind == "a flipped bit":
        flipped = bytearray(checkpoints.current.read_bytes())
        flipped[len(flipped) // 2] ^= 4
        checkpoints.current.write_bytes(flipped)
    else:
        put(checkpoints.current, kind)
    assert checkpoints.latest().position.iteration == 2
    output = capsys.readouterr().out
    assert (
        "renamed to checkpoint.pt.damaged, and training goes on without it" in output
        and output.count("\n") == 1
    )
    put(checkpoints.previous, kind if kind != "a flipped bit" else "noise")
    assert checkpoints.latest() is None
    checkpoints.clear()
