"""`structseg run`: what Snakemake is told; and `list` and `check config`."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import pytest

from common.errors import UserError
from common.machine import devices
from common.stages import check, run
from common.stages import list as listing
from tests.conftest import ROOT


def words(*others: str, preset: str | None = None, files: tuple[str, ...] = ()) -> list[str]:
    command = run.command(preset, [Path(file) for file in files], [*others])
    assert command[:5] == [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return command[5:]


def test_all_cores_are_used_unless_something_else_is_asked_for() -> None:
    assert words() == ["--cores", "all", "--quiet", "rules"]
    assert words("-n", "--quiet") == ["--cores", "all", "-n", "--quiet"]
    assert words("-n", "--cores=2", "tables") == ["-n", "--cores=2", "tables"]


def test_a_preset_comes_before_what_is_laid_over_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seeds: [0]\n")
    preset = str(ROOT / "workflow/presets/camvid_cpu.yaml")
    assert words("-n", preset="camvid_cpu", files=(str(mine),)) == [
        *("--cores", "all", "--configfile", preset, str(mine), "-n")
    ]
    with pytest.raises(UserError, match="--preset: unknown preset 'camvid_cpi'.*did you mean camvid_cpu"):
        words(preset="camvid_cpi")


def test_a_file_that_cannot_be_read_is_a_sentence_before_snakemake_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothere.yaml cannot be read: there is no such file"):
        words(files=("nothere.yaml",))
    (tmp_path / "wrong.yaml").write_text("seeds: [0\n")
    with pytest.raises(UserError, match=r"wrong.yaml"):
        words(files=(str(tmp_path / "wrong.yaml"),))


def test_a_profile_of_ours_is_meant_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: object())
    assert words("-n", "--profile", "slurm") == ["-n", "--profile", str(ROOT / "workflow/profiles/slurm")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--profile", "slurm"], "slurm needs .*: pip install -r requirements-slurm.txt"),
        (["--executor=slurm", "-j", "3"], "slurm needs .*: pip install -r requirements-slurm.txt"),
        (
            ["-e", "lsf"],
            "lsf needs snakemake-executor-plugin-lsf.*: pip install snakemake-executor-plugin-lsf",
        ),
    ],
)
def test_an_executor_that_is_missing_is_one_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=sentence):
        words(*arguments)
    assert util.find_spec("snakemake")


def test_gpus_that_are_not_used_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(devices, "_job_gpus", 0)
    assert "resources.gpu is 0" in (devices.unused_gpus() or "")
    monkeypatch.setattr(devices, "_job_gpus", 1)
    assert devices.unused_gpus() is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["methods"], "crf-5"),
        (["methods"], "boundary_loss: as it is"),
        (["methods"], "ce: settings of its own for digits"),
        (["datasets"], "CamVid: street scenes"),
        (["datasets"], 'camvid: layout "original"'),
        (["models"], "deeplabv3-resnet50"),
        (["presets"], "CamVid on two CPU cores"),
        (["options", "rmi"], "Side R of the neighbourhood"),
        (["options", "crf-5"], "iterations"),
        (["options", "folder"], "The names of the classes"),
    ],
)
def test_what_there_is_to_choose_is_listed(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["structseg", "list", *arguments])
    from common.__main__ import main

    main()
    assert text in capsys.readouterr().out
    assert listing.KINDS


def test_a_configuration_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.check_configuration(["camvid_cpu"])
    assert capsys.readouterr().out.startswith("ok: 1 dataset ×")
    (tmp_path / "wrong.yaml").write_text("method: [ce]\n")
    with pytest.raises(UserError, match="unknown key 'method'"):
        check.check_configuration([str(tmp_path / "wrong.yaml")])
    with pytest.raises(UserError, match=r"check config: unknown preset .* \(did you mean camvid_cpu\?\)"):
        check.check_configuration(["camvid_cup"])
